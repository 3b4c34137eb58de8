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


@pytest.mark.parametrize("readme", READMES)
def test_the_python_examples_run(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = blocks(readme, "python")
    assert len(examples) == 2
    for code in examples:
        exec(compile(code, readme, "exec"), {})
    assert (tmp_path / "runs/readme/certificate.json").is_file()


@pytest.mark.parametrize("readme", READMES)
def test_the_recipe_runs(readme: str, tmp_path: Path) -> None:
    (text,) = blocks(readme, "yaml")
    short = ["train.max_steps=6", "keep.rows=512", f"output={tmp_path / 'run'}", "monitor.rows=8", "samples.tokens=4"]
    result = run(load(parse(text, readme), short))
    assert result.verdict in ("holds", "undecided", "broken")
    assert (tmp_path / "run/final/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("readme", READMES)
def test_the_tree_names_what_is_there(readme: str) -> None:
    (tree,) = [b for b in blocks(readme, "") if "src/holdfast/" in b]
    named = {name.rstrip("/") for name in re.findall(r"── (\S+)", tree)}
    there = {p.name for p in (ROOT / "src/holdfast").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert named <= there
    assert {n for n in there - named if not n.startswith("_")} <= {"base.py", "objective.py", "run_folder.py"}
