"""The sections about an evaluation: its figures, verdicts, worst examples, and what it does not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast._errors import BadInput
from holdfast.evaluation.report import RunRecord, read_run, write_report
from holdfast.evaluation.report.drawing import BUDGET, style
from holdfast.evaluation.report.forest import forest
from holdfast.evaluation.report.suites import examples_section, suites_section, verdicts
from tests.evaluation.report.pages import shown
from tests.evaluation.report.runs import SHAPES, evaluation, write_run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(evaluation()), "utf-8")
    return file


@pytest.fixture
def run(file: Path) -> RunRecord:
    return read_run(file)


def test_every_suite_is_a_row_with_its_figures_and_its_verdict(run: RunRecord):
    text = shown(suites_section, [run]).replace("\xa0", " ")
    for said in ("86.0 %", "[83.0, 89.0] %", "+4.1", "[+2.6, +5.6]", "percentage points", "✕ forgot", "31 lost, 12"):
        assert said in text
    for said in ("1.310", "+0.030", "nats per token", "↑ improved", "needs 1,200", "of all 0.120", "常识问答"):
        assert said in text
    assert "arithmetic &lt;b&gt;" in text and "nan" not in text
    assert 'data-value="4.1' in text


def test_what_is_neither_better_nor_worse_is_called_so_and_not_drawn(run: RunRecord):
    text = shown(suites_section, [run])
    assert "no better or worse" in text and text.count("<svg") == 2
    assert "What each suite can show, and what it cannot" in text


def test_the_verdicts_in_words(run: RunRecord):
    said = "was asked 7 suites: forgot 1 (grammar-en), kept 2, improved 1, undecided 1, not judged 2."
    assert verdicts(run) == said


def test_what_is_not_guarded_and_how_far_answers_drifted(run: RunRecord):
    text = shown(suites_section, [run])
    for said in ("No suite guards safety, code", "output distribution", "0.0213", "mean length", "forgetting rate"):
        assert said in text
    bare = RunRecord("bare", Path("bare"), evaluation={**evaluation(), "unguarded": [], "drift": None, "scores": None})
    assert "guards" not in shown(suites_section, [bare]) and "Drift" not in shown(suites_section, [bare])


def test_the_worst_examples_stand_side_by_side(run: RunRecord):
    text = shown(examples_section, [run])
    assert text.count("<details>") == 5 and text.count('class="sample"') == 10
    assert ">expected</span>" in text and ">tiny (1)</span>" in text and ">governed (0)</span>" in text


def test_a_forest_shows_change_interval_and_margin(run: RunRecord):
    suites = [suite for suite in run.suites() if suite["unit"] == "share"]
    with style():
        axes = forest(suites, 100.0).axes[0]
    lines = [np.asarray(line.get_xydata()) for line in axes.lines]
    assert any(np.allclose(line, [[4.1, 0]]) for line in lines)
    assert any(np.allclose(line, [[2.6, 0], [5.6, 0]]) for line in lines)
    margins = [line for line in axes.lines if line.get_color() == BUDGET and line.get_xdata()[0] == 2.0]
    assert len(margins) == len(suites) == len(axes.get_yticks())


@pytest.mark.slow
def test_an_evaluation_in_a_run_folder_joins_its_report(file: Path, tmp_path: Path):
    folder = write_run(tmp_path / "governed", SHAPES["governed"])
    assert "What the suites say" not in write_report([folder], tmp_path / "a.html").read_text("utf-8")
    file.rename(folder / "evaluation.json")
    page = write_report([folder], tmp_path / "a.html").read_text("utf-8")
    assert page.index("What the suites say") < page.index("The worst examples") < page.index("Over the steps")


@pytest.mark.parametrize("of", ["file", "folder"])
def test_an_evaluation_alone_has_a_report_of_its_own(of: str, file: Path, tmp_path: Path):
    page = write_report([file if of == "file" else file.parent], tmp_path / "a.html").read_text("utf-8")
    assert "What the suites say" in page and "certificate" not in page.partition("</style>")[2]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"suites": 3}'])
def test_a_file_that_is_no_evaluation_is_refused(text: str, tmp_path: Path):
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(BadInput, match="no evaluation"):
        read_run(tmp_path / "some.json")


def test_an_evaluation_with_holes_is_still_shown():
    holes: list[Any] = [{}, {"suite": "x", "worse": None, "worst": [{}]}, {"unit": "share", "worse": {"mean": 0.1}}, 3]
    run = RunRecord("run", Path("run"), evaluation={"suites": holes, "drift": {"style": {"x": None}}, "scores": 3})
    for make in (suites_section, examples_section):
        assert "nan" not in shown(make, [run])
