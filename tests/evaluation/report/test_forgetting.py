"""The section about forgetting curves: what is fitted is what was logged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.evaluation.curve import forgetting_curve, full_steps
from holdfast.evaluation.report.forgetting import forgetting_section
from holdfast.evaluation.report.headline import change
from holdfast.evaluation.report.records import read_runs
from tests.evaluation.report.pages import shown
from tests.evaluation.report.runs import write_runs


@pytest.fixture
def page(tmp_path: Path) -> str:
    return shown(forgetting_section, read_runs(write_runs(tmp_path, ["plain", "governed"])))


def test_every_run_and_text_has_a_picture_and_all_curves(page: str, tmp_path: Path) -> None:
    assert page.count("<svg") == 4 and page.count("exponential") == page.count(">power") == page.count(">closed") == 4
    for name in ("plain", "governed"):
        (run,) = read_runs([tmp_path / name])
        best = forgetting_curve(run.log, "self")[0]
        assert f"{best.aicc:.1f}" in page


def test_what_is_foretold_is_the_curves_own_prediction(page: str, tmp_path: Path) -> None:
    (run,) = read_runs([tmp_path / "plain"])
    for fit in forgetting_curve(run.log, "tiny/stories"):
        assert any(change(fit.predict(2 * last).mean) in page for last in _ends(run.log))


def _ends(log: object) -> list[float]:
    assert isinstance(log, tuple)
    clock = full_steps(log)
    return [clock(line["step"]) for line in log if line["kind"] == "probe"]


def test_too_few_looks_are_said(tmp_path: Path) -> None:
    (folder,) = write_runs(tmp_path, ["plain"])
    (folder / "log.jsonl").write_text('{"step": 1, "kind": "train", "loss": 1.0}\n', "utf-8")
    assert "five looks" in shown(forgetting_section, read_runs([folder]))


def test_a_curve_that_does_not_fit_foretells_nothing(tmp_path: Path) -> None:
    (folder,) = write_runs(tmp_path, ["plain"])
    rises = [0.5, 0.1, 0.5, 0.1, 0.5, 0.1, 0.5, 0.1]
    ends = [{"rise": rise, "low": rise - 0.02, "high": rise + 0.02} for rise in rises]
    looks = [{"step": 10 * i, "kind": "probe", "text": "self", **end} for i, end in enumerate(ends, start=1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in looks), "utf-8")
    page = shown(forgetting_section, read_runs([folder]))
    assert page.count("no fit") == 6 and page.count("<svg") == 1
