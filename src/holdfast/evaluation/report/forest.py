"""The forest of an evaluation: how much worse each suite got, with its interval, its noise and its margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import shorten

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from holdfast.evaluation.report.drawing import BUDGET, FAINT, INK
from holdfast.evaluation.report.headline import MARKS, between, signed
from holdfast.evaluation.report.records import Entry, number
from holdfast.evaluation.report.tips import tell

_WIDTH, _ROW = 4.8, 0.34  # inches
_MARKS = {"forgot": "X", "kept": "o", "improved": "^", "undecided": "D"}


def forest(suites: Sequence[Entry], times: float) -> Figure:
    """Suites of one unit, from top to bottom, their figures multiplied by `times`. Drawn within `drawing.style`."""
    figure = Figure(figsize=(_WIDTH, 0.8 + _ROW * len(suites)), layout="constrained")
    axes = figure.add_subplot()
    for row, suite in enumerate(suites):
        _draw(axes, row, suite, times)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_ylim(len(suites) - 0.5, -0.5)
    names = [shorten(str(suite.get("suite")), 26, placeholder="…") for suite in suites]
    axes.set_yticks(range(len(suites)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.set_xlabel("← better  ·  worse →")
    return figure


def _draw(axes: Axes, row: int, suite: Entry, times: float) -> None:
    worse, verdict = suite["worse"], str(suite.get("verdict") or "")
    mean, low, high = (times * number(worse, key) for key in ("mean", "low", "high"))
    margin, noise = times * number(suite, "margin"), times * number(suite, "noise")
    hue = BUDGET if verdict == "forgot" else INK
    if math.isfinite(noise):
        axes.fill_between([-noise, noise], row - 0.3, row + 0.3, color=FAINT, alpha=0.2, linewidth=0)
    if math.isfinite(margin):
        axes.plot([margin, margin], [row - 0.32, row + 0.32], color=BUDGET, linewidth=1.4, zorder=1.8)
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([low, high], [row, row], color=hue, linewidth=1.5, solid_capstyle="butt")
    face = "none" if verdict in ("undecided", "") else hue
    axes.plot([mean], [row], _MARKS.get(verdict, "o"), color=hue, markerfacecolor=face, markersize=6)
    ends = between(low, high, lambda value: signed(value, 2))
    tell(axes, mean, row, f"{suite.get('suite')}: {signed(mean, 2)} {ends} {verdict} {MARKS.get(verdict, '')}".strip())
