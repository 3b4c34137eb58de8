"""Pieces of the page: what comes from outside is escaped in each of them."""

from __future__ import annotations

from pathlib import Path

from holdfast.evaluation.report.headline import Cell
from holdfast.evaluation.report.page import (
    absent,
    cell,
    figure,
    key,
    listing,
    note,
    page,
    row_name,
    run_name,
    section,
    table,
    words,
)
from holdfast.evaluation.report.records import RunRecord

EVIL = '<script>alert("1")</script>&'


def test_every_piece_escapes():
    run = RunRecord(EVIL, Path("run"), missing={"log.jsonl": EVIL})
    pieces = [page(EVIL, []), section(EVIL), note(EVIL), figure(EVIL), key([EVIL]), run_name(0, EVIL)]
    pieces += [words(EVIL), row_name(EVIL, EVIL), cell(Cell(EVIL, (EVIL,), "holds")), table([EVIL], [])]
    pieces += [listing({EVIL: EVIL}), *absent([run], "log.jsonl")]
    for piece in pieces:
        assert "<script" not in piece
        assert "&lt;script&gt;alert(" in piece


def test_a_verdict_carries_its_tone_and_its_fine_print():
    assert cell(Cell("holds", ("bound",), "holds")) == (
        '<td class="figure"><b class="holds">holds</b><small>bound</small></td>'
    )
    assert cell(Cell("1")) == '<td class="figure">1</td>'


def test_a_table_has_a_head_and_its_rows():
    text = table(["a", "b"], [[words(1), words(2)], [words(3), words(4, wide=True)]])
    assert text.count("<tr>") == 3
    assert text.count("<th ") == 2
    assert '<td class="wide">4</td>' in text
