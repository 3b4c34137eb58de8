"""The command line: what each command prints, and the exit code of each way to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import holdfast
from holdfast import cli
from holdfast.cli import shelf
from holdfast.params.importance import scores
from holdfast.recipe import callbacks, running
from tests.recipe.small import texts, values

CODES = {"fine": 0, "bug": 1, "bad input": 2, "does not hold": 3, "stopped": 4, "interrupted": 130}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without the pictures, and apart from the user's cache."""
    monkeypatch.setattr(running, "write_report", lambda runs, target, title: target)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small recipe."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values(tmp_path)))
    return path


REPORTS = ("report.html", "report.json", "report.md")


def code(*arguments: str | Path) -> int:
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_help_documents_the_exit_codes_and_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    for number in CODES.values():
        assert f"{number} " in told[told.index("Exit codes") :]
    for command in ("train", "demo", "inspect", "evaluate", "report", "recipes"):
        assert command in told
        assert code(command, "--help") == 0
    assert code("--version") == 0
    assert holdfast.__version__ in capsys.readouterr().out


def test_a_recipe_is_trained(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("train", file, "train.max_steps=2") == CODES["fine"]
    told = capsys.readouterr().out
    assert "holds" in told and str(tmp_path / "run/final") in told.replace("\n", "")
    assert json.loads((tmp_path / "run/certificate.json").read_text())["steps"] == 2


def test_a_certificate_that_does_not_hold_has_its_own_exit_code(file: Path) -> None:
    hard = ("keep.budget=0.0001", "keep.govern=false", "rules=[]", "train.learning_rate=1e-2")
    assert code("train", file, *hard) == CODES["does not hold"]


def test_a_run_that_had_to_stop_has_its_own_exit_code(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = ("train.learning_rate=1e38", "train.max_grad_norm=0", "train.max_steps=6")
    assert code("train", file, *wild) == CODES["stopped"]
    assert "not a finite number" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told_step = callbacks.Steps.on_step_end

    def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        told_step(self, args, state, control, **kwargs)
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(callbacks.Steps, "on_step_end", stop)
    assert code("train", file) == CODES["interrupted"]
    said = " ".join(capsys.readouterr().err.split())
    assert "--resume" in said and "checkpoint was saved" in said
    monkeypatch.setattr(callbacks.Steps, "on_step_end", told_step)
    assert code("train", tmp_path / "run/recipe.yaml", "--resume") == CODES["fine"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "{file}", "keep.bugdet=0.1"], "Did you mean 'budget'"),
        (["train", "{file}", "nonsense"], "no override"),
        (["train", "nowhere.yaml"], "recipes list"),
        (["train", "{file}", "base=./nowhere"], "no folder"),
        (["inspect", "tiny", "--select", "layers(9:)"], "matches none"),
        (["inspect", "tiny", "--select", "layers(1"], "column"),
        (["inspect", "tiny", "--select", "layers(0:9)"], "which has 5 blocks"),
        (["inspect", "tiny", "--select", "*.q_proj.*"], """'"*.q_proj.*"'"""),
        (
            ["train", "{file}", "train.max_steps=abc"],
            "`train.max_steps` cannot be used: it is a whole number, not 'abc'",
        ),
        (["inspect", "tiny", "--importance", "fischer"], "Did you mean 'fisher'"),
        (["inspect", "tiny", "--importance", "fisher"], "--data"),
        (["inspect", "tiny", "--importance", "magnitude", "--picture", "heat.pdf"], ".png or .svg"),
        (["inspect", "tiny", "--picture", "heat.png"], "go with --importance"),
        (["evaluate", "tiny", "--text", "nowhere.txt"], "no file or folder"),
        (["report", "nowhere"], "no run folder"),
        (["recipes", "show", "shakespeer"], "Did you mean 'shakespeare'"),
    ],
)
def test_bad_input_is_answered_in_one_paragraph(
    arguments: list[str], said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(*(argument.format(file=file) for argument in arguments)) == CODES["bad input"]
    told = capsys.readouterr()
    assert said in " ".join(told.err.split()) and "Traceback" not in told.err


def test_debug_shows_where_an_error_came_from(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("train", file, "keep.bugdet=0.1", "--debug") == CODES["bad input"]
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_ours_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("holdfast.recipe.plan", lambda recipe: 1 / 0)
    assert code("train", file, "--dry-run") == CODES["bug"]
    told = " ".join(capsys.readouterr().err.split())
    assert "fault in Holdfast" in told and "ZeroDivisionError" in told and "--debug" in told
    assert code("train") == 2


def test_a_dry_run_prints_the_plan_and_leaves_no_folder(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code("train", file, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "260,032 parameters" in told and "optimiser" in told and "rows to learn from" in told
    assert not (tmp_path / "run").exists()


def test_a_dry_run_ends_with_what_would_stop_the_run(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code("train", file, "--dry-run", "--resume") == CODES["bad input"]
    told = capsys.readouterr()
    assert "rows to learn from" in told.out and "no run in" in told.err
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    assert code("train", file, "--dry-run") == 0
    (tmp_path / "run/mine").write_text("mine")
    assert code("train", file, "--dry-run") == CODES["bad input"]
    assert "is already there" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_a_model_is_inspected(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("inspect", "tiny", "--select", "embedding | layers(0:2)") == 0
    told = capsys.readouterr().out
    assert "260,032" in told and "model.layers.*" in told


def test_what_matters_in_a_model_is_shown_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "heat.svg"
    options = ("--importance", "mas", "--data", texts(tmp_path)["old"], "--rows", "8", "--length", "32")
    assert code("inspect", "tiny", *options, "--picture", picture) == 0
    told = capsys.readouterr().out
    assert "8 rows" in " ".join(told.split()) and "critical" in told and "embedding" in told and str(picture) in told
    assert "<svg" in picture.read_text("utf-8")


def test_the_help_names_every_score(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("inspect", "--help") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in scores.names())


def test_a_model_is_evaluated_alone_and_beside_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "story.txt"
    text.write_text("Once upon a time there was a cat.\n\nOne day, the cat saw a big dog and ran to the park.\n" * 9)
    assert code("evaluate", "tiny", "--text", text, "--length", "32", "--rows", "8") == 0
    assert "perplexity" in capsys.readouterr().out
    assert code("evaluate", "tiny", "--text", text, "--base", "tiny", "--length", "32", "--rows", "8") == 0
    assert "0.00 %" in capsys.readouterr().out.replace("\u00a0", " ")


def test_a_model_is_scored_on_suites_alone_and_beside_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "little.yaml"
    (tmp_path / "little.jsonl").write_text(
        '{"prompt": "One day, the", "answer": "cat", "choices": ["cat", "zx"]}\n' * 6
    )
    suite.write_text("data: little.jsonl\ndimension: grammar\n")
    assert code("suites", "check", suite) == 0 and "little: 6 examples" in capsys.readouterr().out
    assert code("suites", "show", suite) == 0 and "One day, the" in capsys.readouterr().out
    assert code("evaluate", "tiny", "--suite", suite) == 0 and "chance" in capsys.readouterr().out
    assert code("evaluate", "tiny", "tiny", "--suite", suite, "--output", tmp_path / "out") == 0
    assert "0, 0" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", *REPORTS}
    assert code("compare", "tiny", "tiny", "tiny", "--suite", suite) == 0
    assert "balance" in capsys.readouterr().out
    assert code("evaluate", "tiny") == 2 and "Nothing to evaluate on" in capsys.readouterr().err


def test_the_shipped_suites_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("suites", "list") == 0
    assert "grammar-en" in capsys.readouterr().out


def test_the_shipped_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("recipes", "list") == 0
    assert "demo-governed" in capsys.readouterr().out
    assert code("recipes", "show", "shakespeare") == 0
    assert yaml.safe_load(capsys.readouterr().out)["base"] == "tiny"


def test_without_a_command_recipes_are_listed_with_their_descriptions_aligned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "console", Console(width=60))
    assert code("recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    wide = max(map(len, holdfast.recipe.shipped())) + 2
    assert len(lines) > len(holdfast.recipe.shipped())
    assert all(not line[wide - 2 : wide].strip() and line[wide] != " " for line in lines)
    assert sorted(line[:wide].strip() for line in lines if line[:wide].strip()) == sorted(holdfast.recipe.shipped())


@pytest.mark.slow
def test_a_report_is_written_about_runs(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("train", file, "train.max_steps=2") == 0
    page = tmp_path / "both.html"
    assert code("report", tmp_path / "run", "--output", page) == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert "run" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo_makes_three_runs_and_replaces_the_old_ones_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = texts(tmp_path)
    small = ("train.max_steps=2", "learn.length=32", "keep.rows=64", "keep.budget=0.9", "monitor.rows=4")
    own = (f"learn.data={files['new']}", f"keep.suites=['{files['old']}']", "samples.tokens=4")
    monkeypatch.setattr("holdfast.demo.QUICK", (*small, *own))
    place = tmp_path / "runs/demo"
    place.mkdir(parents=True)
    (place / "old").write_text("old")
    assert code("demo", "--quick", "--output", place) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Total time" in told and all(name in told for name in ("plain", "remedies", "governed", "base:"))
    assert sorted(path.name for path in place.iterdir()) == ["governed", "plain", "remedies", *REPORTS]
    assert [path.name for path in place.parent.iterdir()] == ["demo"]
    assert yaml.safe_load((place / "plain/recipe.yaml").read_text())["output"] == str(place / "plain")

    def fail(*args: object, **kwargs: object) -> None:
        raise holdfast._errors.TrainingStopped("enough")

    monkeypatch.setattr("holdfast.demo.run", fail)
    assert code("demo", "--quick", "--output", place) == CODES["stopped"]
    assert (place / "report.html").is_file() and [path.name for path in place.parent.iterdir()] == ["demo"]


@pytest.mark.parametrize("early", [True, False])
def test_an_interrupted_demo_says_that_nothing_is_kept(
    early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(recipe: object, *, progress: object, folder: Path) -> holdfast.Result:
        folder.mkdir(parents=True)
        if early:
            raise KeyboardInterrupt
        return holdfast.recipe.Result(folder, None)

    monkeypatch.setattr("holdfast.demo.run", interrupted)
    assert code("demo", "--output", tmp_path / "demo") == CODES["interrupted"]
    assert capsys.readouterr().err.splitlines() == ["Interrupted; nothing of this demo was kept."]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "holdfast", "recipes"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0 and "demo-governed" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["inspect", "tiny"], "260,032", marks=pytest.mark.slow),
        pytest.param(["report", "nowhere"], "no run folder", marks=pytest.mark.slow),
        pytest.param(["inspect", "tiny", "--importance", "magnitude"], "critical", marks=pytest.mark.slow),
    ],
)
def test_a_command_brings_its_own_modules(arguments: list[str], said: str) -> None:
    """In a process of its own: here other tests have imported everything already."""
    told = subprocess.run([sys.executable, "-m", "holdfast", *arguments], capture_output=True, text=True, check=False)
    assert said in told.stdout + told.stderr
