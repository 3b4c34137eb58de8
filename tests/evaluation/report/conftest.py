"""The invented runs and the page about them, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.evaluation.report import RunRecord, read_run, write_report
from tests.evaluation.report.runs import write_runs


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of three invented runs: plain, remedies, governed."""
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def records(folders: list[Path]) -> list[RunRecord]:
    """Their records."""
    return [read_run(folder) for folder in folders]


@pytest.fixture(scope="session")
def page(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the page about all three."""
    return write_report(folders, tmp_path_factory.mktemp("page") / "report.html", title="Three runs").read_text("utf-8")
