"""`holdfast watch` and `holdfast report --format` as commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast import cli
from tests.evaluation.report.runs import SHAPES, evaluation, write_run


def code(*arguments: str | Path) -> int:
    """The exit code of a command line."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_a_finished_run_is_shown_and_a_folder_that_is_none_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code("watch", write_run(tmp_path / "plain", SHAPES["plain"])) == 0
    assert "breaks its certificate" in capsys.readouterr().out
    assert code("watch", tmp_path) == 2
    assert "watch one of plain" in " ".join(capsys.readouterr().err.split())


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("holdfast.watching.Server.serve_forever", _interrupted)
    assert code("watch", tmp_path / "later", "--web", "0") == 130
    assert "at http://127.0.0.1:" in capsys.readouterr().out
    assert code("watch", tmp_path / "later", "--web", "0", "--host", "0.0.0.0") == 130
    assert "Whoever can reach 0.0.0.0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--web", "0"], ["--web", "0", "--host", "0.0.0.0"]])
def test_an_interrupt_leaves_cleanly(options: list[str], tmp_path: Path) -> None:
    """In a process of its own, as signals go to those."""
    command = [sys.executable, "-u", "-m", "holdfast", "watch", str(tmp_path / "later"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None and started.stderr is not None
        said = started.stdout.readline()
        time.sleep(0.1)
        os.kill(started.pid, signal.SIGINT)
        complaints = started.stderr.read()
    assert started.returncode == 130 and "Traceback" not in complaints
    assert ("http://" if options else "waiting for a run to begin") in said
    assert ("can now read this run" in complaints) == ("--host" in options)


def test_a_report_is_written_in_the_format_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "plain", SHAPES["plain"])
    assert code("report", run, "--format", "md") == 0 and (run / "report.md").is_file()
    assert code("report", run, "--output", tmp_path / "x.json") == 0
    assert json.loads((tmp_path / "x.json").read_text("utf-8"))["headline"][0]["verdict"] == "broken"
    assert code("report", run, "--output", tmp_path / "x.json", "--format", "md") == 2
    assert code("report", run, "--format", "pdf") == 2
    assert "must end in .html, .md, .json" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_is_not_written_over_by_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(evaluation()), "utf-8")
    assert code("report", file, "--format", "json") == 0
    assert json.loads(file.read_text("utf-8")) == evaluation()
    assert (tmp_path / "evaluation-report.json").is_file()
    assert "was asked 7 suites: forgot 1" in " ".join(capsys.readouterr().out.split())
