"""Pieces of the page: what comes from outside is escaped in each of them."""

from __future__ import annotations

import base64
import hashlib
import math
import re

import pytest
from matplotlib.figure import Figure

from holdfast.evaluation.report.content import (
    Answers,
    Bar,
    Block,
    Cell,
    Folded,
    Heading,
    Links,
    Listing,
    Note,
    Picture,
    Pictures,
    Section,
    Source,
    Swatches,
    Table,
    Verdicts,
)
from holdfast.evaluation.report.markdown import marked_up as as_markdown
from holdfast.evaluation.report.page import cell, page
from tests.evaluation.report.pages import marked_up

EVIL = '<script>alert("1")</script>&'
BLOCKS: list[Block] = [
    Note(EVIL),
    Note(EVIL, quiet=False),
    Heading(EVIL),
    Heading(EVIL, 0),
    Verdicts([(0, EVIL, EVIL)]),
    Table([EVIL], []),
    Table(["a"], [[Cell(EVIL, (EVIL,), "holds")]], named=False),
    Table(["a"], [[Cell(EVIL, (EVIL,))]]),
    Listing({EVIL: EVIL}),
    Pictures(lambda: [Picture(EVIL, Figure())], key=[EVIL]),
    Pictures(lambda: [Picture("", Figure(), "large")], caption=EVIL),
    Swatches([(0.5, EVIL)]),
    Answers(EVIL, [(None, EVIL, EVIL)]),
    Source(EVIL),
    Links(EVIL, {EVIL: EVIL}),
    Folded(EVIL, [Note(EVIL)]),
    Bar(EVIL, 1.0, 0.5, 1.5, 2.0, EVIL),
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_every_piece_escapes(block: Block):
    text = marked_up(block)
    assert "<script" not in text
    assert "&lt;script&gt;alert(" in text
    if not isinstance(block, Source | Links):
        assert not re.search(r"(?<!\\)<script", as_markdown(block))


def test_a_verdict_carries_its_tone_and_its_fine_print():
    assert cell(Cell("holds", ("bound",), "holds")) == (
        '<td class="figure"><b class="holds">holds</b><small>bound</small></td>'
    )
    assert cell(Cell("1")) == '<td class="figure">1</td>'
    assert cell(Cell("1", kind="wide")) == '<td class="wide">1</td>'


def test_a_cell_carries_its_exact_figure_and_its_shade():
    assert 'data-value="0.12345"' in cell(Cell("0.12", exact=0.12345))
    assert 'data-value="-Infinity"' in cell(Cell("-", exact=-math.inf))
    assert "data-value" not in cell(Cell("-", exact=math.nan))
    assert 'style="--depth: 25%"' in cell(Cell("1", depth=0.25))


def test_a_table_has_a_head_and_its_rows():
    text = marked_up(Table(["a", "b"], [[Cell("1"), Cell("2")], [Cell("3"), Cell("4")]]))
    assert text.count("<tr>") == 3
    assert text.count('<th scope="col">') == text.count('<th scope="row">') == 2


def test_the_policy_of_a_page_lets_its_own_script_run_and_no_other():
    text = page("title", [Section("empty", [])])
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "<section>" not in text


@pytest.mark.parametrize(("value", "tone", "limit"), [(1.0, "inside", "50.00"), (9.0, "over", "20.00")])
def test_a_bar_shows_its_figure_against_its_limit(value: float, tone: str, limit: str):
    text = marked_up(Bar("stories", value, value - 0.5, value + 1, 2.0, "said"))
    assert f'class="bar {tone}"' in text and f'class="limit" x1="{limit}"' in text
