"""Curves over the steps: which pictures there are, what they draw, and the governor's marks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.lines import Line2D

from holdfast.evaluation.report import RunRecord
from holdfast.evaluation.report.content import Picture
from holdfast.evaluation.report.drawing import BUDGET, colour, style
from holdfast.evaluation.report.plots import ACTIONS, curves
from tests.evaluation.report.runs import STEPS


def _curves(runs: list[RunRecord]) -> dict[str, Picture]:
    with style():
        return {picture.title: picture for picture in curves(runs)}


def _line(picture: Picture, place: int) -> Line2D:
    lines = [line for line in picture.figure.axes[-1].lines if line.get_color() == colour(place)]
    return max(lines, key=lambda line: len(np.asarray(line.get_xdata())))


def test_all_that_the_logs_follow_has_a_picture(records: list[RunRecord]):
    assert list(_curves(records)) == [
        "Training loss, nats per token, penalties included",
        "Gain on tiny/shakespeare, nats per token",
        "Change of perplexity on self, %; the line is the budget of 2 %",
        "Change of perplexity on tiny/stories, %; the line is the budget of 2 %",
        "Penalty of distill, nats",
        "Penalty of ewc, nats",
        "Strength of distill",
        "Strength of ewc",
    ]
    assert _curves([RunRecord("empty", Path("empty"))]) == {}


def test_curves_draw_the_figures_of_the_log(records: list[RunRecord]):
    found = _curves(records)
    loss = _line(found["Training loss, nats per token, penalties included"], 1)
    train = records[1].lines("train")
    assert list(loss.get_xdata()) == [line["step"] for line in train]
    assert list(loss.get_ydata()) == [line["loss"] for line in train]
    rise = _line(found["Change of perplexity on self, %; the line is the budget of 2 %"], 2)
    looks = records[2].series("probe", "self")
    assert list(rise.get_xdata()) == [0, *(line["step"] for line in looks)]
    assert rise.get_ydata() == pytest.approx([0.0, *(100 * math.expm1(line["rise"]) for line in looks)])


def test_the_budget_is_a_line(records: list[RunRecord]):
    picture = _curves(records)["Change of perplexity on self, %; the line is the budget of 2 %"]
    heights = [line.get_ydata()[0] for line in picture.figure.axes[-1].lines if line.get_color() == BUDGET]
    assert heights == pytest.approx([2.0])


def test_every_decision_of_the_governor_has_its_mark(records: list[RunRecord]):
    picture = _curves(records)["Change of perplexity on self, %; the line is the budget of 2 %"]
    strip = picture.figure.axes[0]
    marks = sorted((step, line.get_marker()) for line in strip.lines for step in np.asarray(line.get_xdata()))
    decided = sorted((line["step"], ACTIONS[line["action"]][0]) for line in records[2].lines("governor"))
    assert marks == decided
    stories = _curves(records)["Change of perplexity on tiny/stories, %; the line is the budget of 2 %"].figure.axes[0]
    alarms = [line for line in stories.lines if line.get_marker() == ACTIONS["alarm"][0]]
    assert [*np.asarray(alarms[0].get_xdata())] == [line["step"] for line in records[1].lines("alarm")]
    places = [(step, row) for line in strip.lines for step, row in np.asarray(line.get_xydata())]
    assert len(set(places)) == len(places)


def test_without_a_governor_there_is_no_strip(records: list[RunRecord]):
    picture = _curves(records[:1])["Change of perplexity on self, %; the line is the budget of 2 %"]
    assert len(picture.figure.axes) == 1


def test_a_strength_that_ranges_widely_is_drawn_on_a_logarithmic_axis(records: list[RunRecord]):
    wide = [{"kind": "governor", "step": s, "action": "tightened", "strengths": {"distill": 2.0**s}} for s in range(9)]
    narrow = [{**line, "strengths": {"distill": 8.0 + line["step"]}} for line in wide]
    drawn = [_curves([replace(records[2], log=tuple(log))])["Strength of distill"].figure for log in (wide, narrow)]
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["log", "linear"]
    with style():
        drawn[0].draw_without_rendering()
    labels = {label.get_text() for label in drawn[0].axes[0].get_yticklabels()}
    assert {"1", "10", "100"} <= labels
    assert not any("$" in label for label in labels)


def test_every_picture_has_the_same_steps(records: list[RunRecord]):
    spans = {picture.figure.axes[-1].get_xlim() for picture in _curves(records).values()}
    assert spans == {(-0.02 * STEPS, 1.02 * STEPS)}


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "text"])
def test_a_figure_that_is_none_leaves_a_gap(value: object):
    log = tuple({"kind": "train", "step": step, "loss": 2.0 if step != 2 else value} for step in (1, 2, 3))
    picture = _curves([RunRecord("run", Path("run"), log=log)])["Training loss, nats per token, penalties included"]
    assert list(_line(picture, 0).get_xdata()) == [1, 3]
