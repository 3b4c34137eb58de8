"""Reading run folders back: half-written logs, resumed runs, and files that are not there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast._errors import BadInput
from holdfast.evaluation.report.records import FILES, RunRecord, number, percent, read_run, read_runs
from tests.evaluation.report.runs import BUDGET, NEW, SHAPES, log, write_run


def test_a_whole_folder_is_read(folders: list[Path]):
    run = read_run(folders[2])
    assert (run.name, run.verdict, dict(run.missing)) == ("governed", "holds", {})
    assert list(run.log) == log(SHAPES["governed"])
    assert run.texts("learn") == [NEW]
    assert run.texts("probe") == ["self", "tiny/stories"]
    assert len(run.samples) == 3
    assert "seed: 0" in (run.recipe or "")


@pytest.mark.parametrize(
    "ending", ['{"kind":"tra', '{"kind":"train","step":', "[1, 2]", '"text"', '{"step": 1}', "\x00"]
)
def test_a_half_written_last_line_is_passed_over(tmp_path: Path, ending: str):
    folder = write_run(tmp_path / "run", SHAPES["plain"])
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(ending)
    assert list(read_run(folder).log) == log(SHAPES["plain"])


def test_a_line_separator_inside_a_text_does_not_split_a_line(tmp_path: Path):
    line = {"kind": "note", "step": 3, "text": "one\u2028two\x85three"}
    (tmp_path / "log.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(read_run(tmp_path).log) == [line]


def test_steps_that_a_resumed_run_writes_again_replace_the_first_ones(tmp_path: Path):
    steps = [10, 20, 30, 40, 30, 40, 50]
    lines = [{"kind": "train", "step": step, "loss": float(place)} for place, step in enumerate(steps)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = [(line["step"], line["loss"]) for line in read_run(tmp_path).log]
    assert found == [(10, 0.0), (20, 1.0), (30, 4.0), (40, 5.0), (50, 6.0)]


def test_a_step_looked_at_twice_counts_once():
    looks = [{"kind": "probe", "step": 5, "text": "self", "rise": rise} for rise in (0.1, 0.2)]
    assert RunRecord("run", Path("run"), log=tuple(looks)).series("probe", "self") == [looks[1]]


@pytest.mark.parametrize("name", FILES)
def test_each_file_may_be_missing(tmp_path: Path, name: str):
    folder = write_run(tmp_path / "run", SHAPES["plain"])
    (folder / name).unlink()
    assert read_run(folder).missing == {name: f"There is no {name} in its folder."}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_certificate_that_is_none_is_said_to_be_none(tmp_path: Path, text: str):
    folder = write_run(tmp_path / "run", SHAPES["plain"])
    (folder / "certificate.json").write_text(text, encoding="utf-8")
    run = read_run(folder)
    assert run.certificate is None
    assert run.missing["certificate.json"].startswith("certificate.json ")


def test_no_folder_and_no_run_are_errors(tmp_path: Path):
    with pytest.raises(BadInput, match="no run folder at"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="is not a run folder"):
        read_run(tmp_path)
    with pytest.raises(BadInput, match="at least one run"):
        read_runs([])


def test_runs_of_one_name_are_told_apart(tmp_path: Path):
    one, two = (write_run(tmp_path / parent / "run", SHAPES["plain"]) for parent in ("a", "b"))
    assert [run.name for run in read_runs([one, two])] == ["a/run", "b/run"]
    assert len({run.name for run in read_runs([one, one, two])}) == 3


def test_budgets_come_from_the_certificate_and_else_from_the_log(records: list[RunRecord]):
    expected = {"self": math.log1p(BUDGET), "tiny/stories": math.log1p(BUDGET)}
    assert records[2].limits() == pytest.approx(expected)
    assert replace(records[2], certificate=None).limits() == pytest.approx(expected)
    assert replace(records[2], certificate=None, log=()).limits() == {}


def test_the_worst_text_is_the_one_furthest_over_its_own_budget():
    kept = [{"text": "a", "rise": 0.03, "budget": 0.10}, {"text": "b", "rise": 0.02, "budget": 0.01}]
    run = RunRecord("run", Path("run"), certificate={"kept": kept})
    assert run.worst(run.audited("kept")) == kept[1]
    assert run.worst([]) is None
    assert run.worst([{"text": "a"}]) is None


@pytest.mark.parametrize("value", [None, "0.1", True, [0.1]])
def test_what_is_no_number_reads_as_nan(value: object):
    assert math.isnan(number({"rise": value}, "rise"))


def test_a_rise_in_per_cent():
    assert percent(math.log(1.02)) == pytest.approx(2.0)
    assert percent(-math.log(2)) == pytest.approx(-50.0)
    assert percent(5000.0) == math.inf
    assert math.isnan(percent(math.nan))
