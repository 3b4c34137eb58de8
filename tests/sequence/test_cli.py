"""Sequences and the dial on the command line: plan, run, report, and the place that a budget allows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from holdfast import cli
from tests.sequence.small import values


def code(*arguments: str | Path) -> int:
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values(tmp_path)))
    return path


def test_a_dry_run_plans_every_task_and_leaves_no_folder(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code("train", file, "tasks.sizes.train={max_steps: 7}", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "260,032 parameters" in told and all(name in told for name in ("colours", "sizes", "plays", "together"))
    assert "13" in told and not (tmp_path / "run").exists()


def test_a_fault_in_a_task_is_answered_in_one_paragraph(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("train", file, "tasks.sizes.itmes=7") == 2
    told = capsys.readouterr().err
    assert "Did you mean 'items'" in told and "Traceback" not in told


def test_the_dial_needs_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("dial", tmp_path) == 2
    assert "no finished run" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_sequence_is_trained_reported_and_dialled(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code("train", file, "keep.rows=48") == 0
    told = capsys.readouterr().out
    assert "backward transfer" in told and "certificate" in told
    assert code("train", file, "keep.rows=48", "--resume") == 2
    assert "came to its end" in " ".join(capsys.readouterr().err.split())
    assert code("report", tmp_path / "run", "--output", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").is_file()
    # The second task's guarded texts are the sequence's: the stories since the base, and the first task.
    assert code("dial", tmp_path / "run/2-sizes", "--points", "2") == 0
    point = json.loads((tmp_path / "run/2-sizes/dial/dial.json").read_text())["frontiers"]["together"][-1]
    matrix = json.loads((tmp_path / "run/matrix.json").read_text())
    cells = matrix["loss"]["cells"]
    assert set(point["rises"]) == {str(tmp_path / "stories.txt"), "colours"}
    assert point["rises"]["colours"]["mean"] == pytest.approx(cells[2][0]["mean"] - cells[1][0]["mean"], abs=1e-5)
    stories = matrix["general"][str(tmp_path / "stories.txt")]
    assert point["rises"][str(tmp_path / "stories.txt")]["mean"] == pytest.approx(stories[2]["mean"], abs=1e-5)
