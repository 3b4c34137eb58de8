"""The headline: figures as they are written, verdicts in words, and the table of the terminal."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from holdfast.evaluation.report import RunRecord, render_table
from holdfast.evaluation.report.headline import (
    allowance,
    between,
    change,
    headline,
    nats,
    plain,
    seconds,
    share,
    signed,
    verdict_sentence,
)
from tests.evaluation.report.runs import NEW, SHAPES, certificate


def test_figures_are_written_with_sign_unit_and_fitting_digits():
    assert [nats(1.31579), nats(-0.2), nats(math.nan)] == ["+1.316", "−0.200", "–"]
    assert [share(1.234), share(-45.67), share(1234.5)] == ["+1.23\xa0%", "−45.7\xa0%", "+1,234\xa0%"]
    assert share(math.nan) == "–"
    assert [change(math.log(1.02)), change(math.inf)] == ["+2.00\xa0%", "+∞\xa0%"]
    assert [allowance(0.02), allowance(0.005), allowance(math.nan)] == ["2\xa0%", "0.5\xa0%", "–"]
    assert [plain(27.018), plain(1234.5), plain(math.inf)] == ["27.02", "1,234", "∞"]
    assert [seconds(41.25), seconds(79.75), seconds(math.nan)] == ["41.2\xa0s", "1\xa0min\xa020\xa0s", "–"]
    assert signed(-0.0004, 3) == "+0.000"


def test_an_interval_names_its_unit_once():
    assert between(0.0, math.log(1.02), change) == "[+0.00, +2.00]\xa0%"
    assert between(-1.0, 1.0, nats) == "[−1.000, +1.000]"


def test_the_table_holds_the_figures_of_the_certificates(records: list[RunRecord]):
    found = headline(records)
    names = ("run", f"gain on {NEW}", f"perplexity on {NEW}", "forgetting of self", "forgetting of tiny/stories")
    assert found.columns == (*names, "time", "certificate")
    governed = dict(zip(found.columns, found.rows[2], strict=True))
    learnt, kept = certificate(SHAPES["governed"])["learnt"][0], certificate(SHAPES["governed"])["kept"][0]
    assert governed[f"gain on {NEW}"].value == f"+{learnt['gain']:.3f}\xa0nats"
    assert governed[f"gain on {NEW}"].details == (f"[+{learnt['low']:.3f}, +{learnt['high']:.3f}]",)
    assert governed[f"perplexity on {NEW}"].value == f"{learnt['perplexity']:.2f}"
    rise, low, high, upper = (100 * math.expm1(kept[key]) for key in ("rise", "low", "high", "upper"))
    assert governed["forgetting of self"].value == f"+{rise:.2f}\xa0%"
    interval, bound = governed["forgetting of self"].details
    assert interval == f"[+{low:.2f}, +{high:.2f}]\xa0%"
    assert bound == f"bound +{upper:.2f} of 2\xa0%"
    assert (governed["certificate"].value, governed["certificate"].tone) == ("✓\xa0holds", "holds")


def test_a_text_that_a_run_did_not_look_at_is_a_dash(records: list[RunRecord]):
    only = {**certificate(SHAPES["plain"]), "kept": [], "learnt": []}
    found = headline([records[0], replace(records[1], certificate=only)])
    assert {cell.value for cell in found.rows[1][1:5]} == {"–"}


def test_verdicts_in_words(records: list[RunRecord]):
    plain_run, _, governed = records
    assert verdict_sentence(governed).startswith("holds its certificate. On self, the worst of 2 guarded texts,")
    assert "rose by 487\xa0%" in verdict_sentence(plain_run)
    undecided = replace(governed, certificate=certificate(replace(SHAPES["governed"], verdict="undecided")))
    assert "is undecided" in verdict_sentence(undecided)
    assert "1,234 of self, 1,234 of tiny/stories" in verdict_sentence(undecided)
    better = certificate(replace(SHAPES["governed"], rises={"self": -0.05}))
    assert "On self perplexity fell by 4.88\xa0%" in verdict_sentence(replace(governed, certificate=better))


def test_what_is_not_judged_is_said(records: list[RunRecord]):
    missing = {"certificate.json": "There is no certificate.json in its folder."}
    bare = RunRecord("bare", Path("bare"), missing=missing)
    assert verdict_sentence(bare) == "has no certificate. There is no certificate.json in its folder."
    free = replace(records[0], certificate={**certificate(SHAPES["plain"]), "verdict": None})
    assert verdict_sentence(free).startswith("was given no budget")
    assert headline([free]).rows[0][-1].value == "no budget"
    early = {**certificate(SHAPES["plain"]), "stopped": "three looks brought nothing."}
    said = verdict_sentence(replace(records[0], certificate=early))
    assert said.endswith("The run was stopped before its end: three looks brought nothing.")


def test_three_runs_fit_into_a_terminal_of_80_characters(records: list[RunRecord]):
    out = io.StringIO()
    Console(file=out, width=80).print(render_table(records))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    text = " ".join(out.getvalue().replace("\xa0", " ").split())
    for said in ("plain remedies governed", "+1.316 nats", "bound +1.51 of 2 %", "✓ holds", "✕ broken"):
        assert said in text


@pytest.mark.parametrize("name", ["[red]run[/red]", "[/]", "解冻"])
def test_names_are_no_markup(records: list[RunRecord], name: str):
    out = io.StringIO()
    Console(file=out, width=80).print(render_table([replace(records[0], name=name)]))
    assert name in out.getvalue()
