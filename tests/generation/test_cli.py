"""The commands that use a model: export, generate and chat."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast import cli
from holdfast.cli.app import app
from holdfast.generation import Writing, generate
from holdfast.recipe.comparing import opened
from tests.characters import base_folder
from tests.export.adapted import adapter_folder
from tests.generation.test_writing import PROMPTS

runner = CliRunner()


def code(*arguments: str | Path) -> int:
    """The exit code of a command line, with errors as the command line tells them."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_a_model_is_exported_and_its_figures_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    adapter = adapter_folder(tmp_path)
    assert code("export", adapter, tmp_path / "out", "--both") == 0
    told = " ".join(capfd.readouterr().out.split())
    figures = json.loads((tmp_path / "out/merged/export.json").read_text())["merge"]["difference"]
    assert f"largest difference of a logit is {figures['largest']:.3g}" in told
    assert (tmp_path / "out/adapter/adapter_model.safetensors").is_file()
    assert code("export", adapter, tmp_path / "out") == 2
    assert "already there" in " ".join(capfd.readouterr().err.split())
    assert code("export", adapter, tmp_path / "other", "--dtype", "bfloat16", "--tolerance", "1e-6") == 2
    assert "--force" in " ".join(capfd.readouterr().err.split()) and not (tmp_path / "other").exists()
    assert code("export", adapter, tmp_path / "other", "--merge", "--adapter") == 2
    assert "exclude each other" in " ".join(capfd.readouterr().err.split())


def test_one_prompt_is_streamed_and_several_are_printed_with_theirs(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", tied=False)
    known = generate(opened(folder), PROMPTS, Writing(8))
    told = runner.invoke(app, ["generate", str(folder), PROMPTS[0], "--max-new-tokens", "8"])
    assert told.exit_code == 0 and told.stdout == known[0] + "\n"
    lines = tmp_path / "prompts.txt"
    lines.write_text("\n".join(PROMPTS[2:]))
    answers = tmp_path / "answers.jsonl"
    arguments = ["generate", str(folder), *PROMPTS[:2], "--file", str(lines), "--max-new-tokens", "8"]
    told = runner.invoke(app, [*arguments, "--batch-size", "3", "--output", str(answers)])
    assert told.exit_code == 0
    for prompt, answer in zip(PROMPTS, known, strict=True):
        assert f"{prompt}\n{answer}\n" in told.stdout
    written = [json.loads(line) for line in answers.read_text().splitlines()]
    assert written == [{"prompt": p, "answer": a} for p, a in zip(PROMPTS, known, strict=True)]


def test_options_are_the_settings(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", tied=False)
    options = "--beams 4 --temperature 0.7 --top-p 0.9 --top-k 20 --repetition-penalty 1.2 --seed 3 --max-new-tokens 9"
    told = runner.invoke(app, ["generate", str(folder), "-", *options.split(), "--stop", "e"], input="The")
    settings = Writing(9, 0.7, 0.9, 20, 4, 1.2, ("e",), 3)
    assert told.stdout == generate(opened(folder), ["The"], settings)[0] + "\n"


def test_what_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = base_folder(tmp_path / "base")
    wrong = {"--top-p 0.5": "temperature", "--temperature -1": "temperature", "--file none.txt": "none.txt"}
    for options, why in wrong.items():
        assert code("generate", folder, "The", *options.split()) == 2
        assert why in " ".join(capsys.readouterr().err.split())
    assert code("generate", folder) == 2
    assert "no prompt" in " ".join(capsys.readouterr().err.split())
    assert code("chat", folder, "--top-p", "2", "--temperature", "1") == 2


def test_a_chat_reads_what_is_piped_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_folder(tmp_path, tied=False, std=3.0)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"The\n/save {tmp_path / 'talk.jsonl'}\n/quit\n"))
    assert code("chat", adapter, "--temperature", "0", "--max-new-tokens", "6") == 0
    known = [generate(opened(place), ["The"], Writing(6))[0] for place in (adapter, tmp_path / "base")]
    records = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert [record["messages"][1]["content"] for record in records] == known
    assert "no chat template" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("sys.stdin", io.StringIO("The\n"))
    assert code("chat", adapter, "--no-base", "--temperature", "0", "--max-new-tokens", "6") == 0
    assert known[0].split("\n")[0] in capsys.readouterr().out
