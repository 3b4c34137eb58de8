"""The sections that compare runs: decisions, remarks, and what they say when there is nothing to say."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

from holdfast.evaluation.report import RunRecord
from holdfast.evaluation.report.sections import (
    curves_section,
    decisions_section,
    headline_section,
    importance_section,
    movement_section,
    plane_section,
)
from tests.evaluation.report.pages import shown


def test_every_decision_is_a_row_with_its_reason(records: list[RunRecord]):
    text = shown(decisions_section, records)
    decisions = records[2].lines("governor")
    assert text.count("<tr>") == 1 + len(decisions)
    reasons = {html.escape(line["reason"]) for line in decisions if "reason" in line}
    assert len(reasons) == 2
    for reason in (*reasons, "132\xa0% of the aim is used", "61\xa0% of the aim is used"):
        assert reason in text
    assert "◀ walked back" in text
    assert "distill 10.67, ewc 100" in text
    assert "plain" not in text


def test_strengths_that_are_none_do_not_stop_the_page(records: list[RunRecord]):
    line = {"kind": "governor", "step": 1, "action": "something new", "strengths": {"ewc": None}, "fraction": None}
    text = shown(decisions_section, [replace(records[0], log=(line,))])
    assert "something new" in text
    assert "ewc nan" not in text


def test_the_last_decision_is_called_so(records: list[RunRecord]):
    line = {"kind": "governor", "step": 9, "action": "walked back", "strengths": {}, "fraction": 0.5, "final": True}
    assert "the final weights, judged on all control rows" in shown(
        decisions_section, [replace(records[0], log=(line,))]
    )


def test_notes_of_the_log_are_told(records: list[RunRecord]):
    noted = ({"kind": "note", "step": 37, "text": "loss became NaN & stopped"},)
    assert "plain, step 37: loss became NaN &amp; stopped" in shown(curves_section, [replace(records[0], log=noted)])


def test_empty_runs_say_so_in_every_section():
    run = RunRecord("run", Path("run"), missing={"log.jsonl": "There is no log.jsonl in its folder."})
    assert "no certificate" in shown(headline_section, [run])
    assert "No run has measured" in shown(plane_section, [run])
    assert "There is no log.jsonl" in shown(curves_section, [run])
    assert "No governor" in shown(decisions_section, [run])
    assert "No run has logged" in shown(movement_section, [run])


def test_movement_of_a_model_that_did_not_move():
    still = RunRecord("run", Path("run"), log=({"kind": "movement", "step": 1, "groups": {"layers.0 mlp": 0.0}},))
    assert "<svg" in shown(movement_section, [still])


def test_importance_is_shown_where_an_anchor_measured_it():
    line = {"kind": "importance", "step": 9, "rule": "ewc", "groups": {"embedding": 0.5, "layers.1 mlp": 2.0}}
    run = RunRecord("run", Path("run"), log=(line,))
    assert "<svg" in shown(importance_section, [run])
    assert importance_section([run]).figures == {"run": {"embedding": 0.5, "layers.1 mlp": 2.0}}
    assert importance_section([RunRecord("run", Path("run"))]).blocks == []
