"""The same sections as Markdown and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast._errors import BadInput
from holdfast.evaluation.report import RunRecord, write_report, write_sequence_report
from holdfast.evaluation.report.content import Cell, Folded, Note, Picture, Pictures, Section, Source, Table
from holdfast.evaluation.report.document import as_json
from holdfast.evaluation.report.markdown import escape, markdown, marked_up
from tests.evaluation.report.runs import SHAPES, certificate, evaluation
from tests.evaluation.report.test_sequence import write


def never() -> list[Picture]:
    raise AssertionError("a picture is drawn for pages alone")


def test_markdown_has_the_headings_of_the_page(folders: list[Path], page: str, tmp_path: Path):
    text = write_report(folders, tmp_path / "report.md", title="Three runs").read_text("utf-8")
    heads = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert text.startswith("# Three runs\n") and "Learning versus keeping" not in heads
    assert [head for head in heads if head.replace("'", "&#x27;") not in page] == []
    assert (
        "- **governed** holds its certificate." in text and "| governed | +1.316\xa0nats".replace("\xa0", " ") in text
    )
    assert "<svg" not in text


def test_tables_and_text_in_markdown():
    table = Table(("a|b", "c"), [[Cell("x_1", ("[1, 2]",)), Cell("y", tone="holds")]])
    assert marked_up(table) == "| a\\|b | c |\n| --- | --- |\n| x\\_1<br>\\[1, 2\\] | **y** |"
    assert marked_up(Source("a\n```\nb\n")) == "````\na\n```\nb\n````"
    assert marked_up(Folded("more", [Note("inside"), Pictures(never)])) == "**more**\n\ninside"
    assert escape("two\nlines <b>") == "two lines \\<b\\>"
    assert markdown("t", [Section("empty", []), Section("drawn", [Pictures(never)])]) == "# t\n"


def test_json_holds_the_figures_as_they_were_measured(folders: list[Path], tmp_path: Path):
    told = json.loads(write_report(folders, tmp_path / "report.json", title="Three runs").read_text("utf-8"))
    assert told["title"] == "Three runs"
    governed = told["headline"][2]
    kept = certificate(SHAPES["governed"])["kept"][0]
    assert (governed["run"], governed["verdict"], governed["forgetting of self"]) == ("governed", "holds", kept["rise"])
    assert told["certificates"]["plain"] == certificate(SHAPES["plain"])
    assert len(told["trends"]["plain"]["probe"]["self"]) == 15 and "text" in told["trends"]["plain"]["probe"]["self"][0]
    assert told["decisions"].keys() == {"governed"} and told["movement"]["plain"]["layers.4 mlp"] > 0
    assert len(told["warnings"]["remedies"]["alarms"]) == 5
    assert {entry["curve"] for entry in told["forgetting_curves"]} == {"exponential", "power", "closed"}


def test_json_of_an_evaluation_is_what_was_written(tmp_path: Path):
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation()))
    told = json.loads(write_report([tmp_path], tmp_path / "report.json").read_text("utf-8"))
    assert told["evaluation"] == {"governed": evaluation()} and told.keys() == {"title", "evaluation"}


def test_figures_that_are_not_finite_become_null():
    assert json.loads(as_json("t", [Section("s", [], "s", [float("nan"), float("inf")])]))["s"] == [None, None]


def test_sequences_come_in_all_formats(tmp_path: Path):
    folder = write(tmp_path / "seed-0", 0)
    told = json.loads(write_sequence_report([folder], tmp_path / "a.json").read_text("utf-8"))
    assert told["matrix"]["seed-0"]["metrics"].keys() == {"colours", "sizes <b>"}
    text = write_sequence_report([folder], tmp_path / "a.md").read_text("utf-8")
    assert "| after colours |" in text and "[1-colours](<1-colours/report.html>)" in text


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.html.gz"])
def test_another_ending_is_refused_before_anything_is_read(name: str, records: list[RunRecord], tmp_path: Path):
    for make in (write_report, write_sequence_report):
        with pytest.raises(BadInput, match=r"must end in \.html, \.md, \.json"):
            make([tmp_path / "nowhere"], tmp_path / name)
