"""The code and the recipe of both READMEs run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.recipe import load, run
from holdfast.recipe.loading import parse

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh.md")


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / readme).read_text("utf-8"), re.S)


@pytest.mark.slow
def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = blocks("README.md", "python")
    assert len(examples) == 2
    for code in examples:
        exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "runs/readme/certificate.json").is_file()


@pytest.mark.slow
def test_the_recipe_runs(tmp_path: Path) -> None:
    (text,) = blocks("README.md", "yaml")
    short = ["train.max_steps=4", "keep.rows=512", "monitor.rows=8", "samples.tokens=4", "learn.length=64"]
    result = run(load(parse(text, "README.md"), [*short, f"output={tmp_path / 'run'}"]))
    assert result.verdict in ("holds", "undecided", "broken")
    assert (tmp_path / "run/final/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("language", ["python", "yaml"])
def test_both_languages_print_the_same_code(language: str) -> None:
    one, other = ([re.sub(r" *#.*", "", b) for b in blocks(readme, language)] for readme in READMES)
    assert one == other


@pytest.mark.parametrize("readme", READMES)
def test_the_tree_names_what_is_there(readme: str) -> None:
    tree = (ROOT / readme).read_text("utf-8").partition("src/holdfast/\n")[2].partition("```")[0]
    named = {name.rstrip("/") for name in re.findall(r"── (\S+)", tree)}
    there = {p.name for p in (ROOT / "src/holdfast").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert len(named) >= 12 and named <= there
