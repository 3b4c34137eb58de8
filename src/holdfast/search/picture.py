"""The picture of a search: gain against forgetting with the Pareto front, and what each choice decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from holdfast.evaluation.report.drawing import BUDGET, FAINT, INK, colour, percent_scale, picture_file, style, write
from holdfast.evaluation.report.records import percent
from holdfast.search.ground import Figures

if TYPE_CHECKING:
    from holdfast.search.outcome import Found

WHOLE, GIVEN, SHORT = colour(1), colour(0), FAINT
"""Colours of whole runs, of the recipe as given, and of shorter runs."""

LONGEST = 8
"""Most choices whose importance is drawn, those that decide most."""


def front_picture(found: Found, target: str | Path) -> Path:
    """Draw all runs in the plane, whole ones with intervals, and beside it the importance of choices where known."""
    target = picture_file(target)
    with style():
        wide = bool(found.importance)
        figure = Figure(figsize=(11.5 if wide else 8.0, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        left, *right = figure.subplots(1, 2, width_ratios=(2.1, 1)) if wide else [figure.add_subplot()]
        _plane(left, found)
        for axes in right:
            _importance(axes, found.importance)
        return write(figure, target)


def _plane(axes: Axes, found: Found) -> None:
    short = [
        rung.choosing for c in found.candidates.values() for rung in c.rungs if c.whole(len(found.steps)) is not rung
    ]
    whole = {number: rung.choosing for number, rung in found.whole.items()}
    limits = [percent(found.limit)] if found.limit is not None else []
    linear = percent_scale(axes, "x", [v for f in (*short, *whole.values()) for v in _reach(f)], limits, gap=0.1)
    axes.plot(*_points(short), ".", color=SHORT, alpha=0.55, markersize=5, label="shorter runs")
    _front(axes, [whole[number] for number in found.front])
    for number, figures in whole.items():
        _mark(axes, number, figures, given=number == 0)
    axes.plot([], [], "o", color=WHOLE, label="whole runs, 95 % intervals")
    if 0 in whole:
        axes.plot([], [], "D", color=GIVEN, label="the recipe as given")
    for limit in limits:
        axes.axvline(limit, color=BUDGET, linewidth=1.2, zorder=1.5)
        axes.text(
            limit, 1.015, f"budget {limit:.3g} %", color=BUDGET, ha="center", transform=axes.get_xaxis_transform()
        )
    if found.best is not None:
        _ring(axes, found.best, whole[found.best])
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    note = "" if linear is None else f"\n(linear up to {linear:.3g} %, logarithmic beyond)"
    axes.set_xlabel(f"forgetting: change of perplexity (%) on the worst guarded text{note}")
    axes.set_ylabel("learning: gain on the new text (nats per token)")
    axes.legend(framealpha=0.9, facecolor="white", edgecolor="none", loc="lower right")


def _worst(figures: Figures) -> tuple[float, float, float]:
    """The largest rise with its interval, in per cent of perplexity; no change where nothing is kept."""
    rise = max(figures.rises.values(), key=lambda rise: rise.mean, default=None)
    return (0.0, 0.0, 0.0) if rise is None else (percent(rise.mean), percent(rise.low), percent(rise.high))


def _reach(figures: Figures) -> list[float]:
    return [value for value in _worst(figures) if np.isfinite(value)]


def _points(all_figures: Sequence[Figures]) -> tuple[list[float], list[float]]:
    return [_worst(figures)[0] for figures in all_figures], [figures.gain.mean for figures in all_figures]


def _front(axes: Axes, front: Sequence[Figures]) -> None:
    """Steps: between two recipes of the front nothing is promised but the lesser of both."""
    x, y = _points(sorted(front, key=lambda figures: figures.forgetting))
    axes.plot(x, y, color=WHOLE, linewidth=1.2, alpha=0.6, drawstyle="steps-post", label="Pareto front")


def _mark(axes: Axes, number: int, figures: Figures, *, given: bool) -> None:
    """A whole run with its intervals; what is not known of them is left away."""
    (x, left, right), gain = _worst(figures), figures.gain
    sides = [[max(0.0, x - left)], [max(0.0, right - x)]] if np.isfinite([left, right]).all() else None
    known = np.isfinite([gain.low, gain.high]).all()
    heights = [[max(0.0, gain.mean - gain.low)], [max(0.0, gain.high - gain.mean)]] if known else None
    hue, shape = (GIVEN, "D") if given else (WHOLE, "o")
    bars = {"color": hue, "alpha": 0.45, "linewidth": 0, "elinewidth": 1.0, "capsize": 2}
    axes.errorbar([x], [gain.mean], heights, sides, **bars)  # type: ignore[arg-type]
    axes.plot([x], [gain.mean], shape, color=hue, markersize=6, zorder=3)
    axes.annotate(str(number), (x, gain.mean), xytext=(5, -11), textcoords="offset points", color=FAINT)


def _ring(axes: Axes, number: int, figures: Figures) -> None:
    (x, *_), y = _worst(figures), figures.gain.mean
    axes.plot([x], [y], "o", markersize=13, markerfacecolor="none", color=INK, markeredgewidth=1.4, zorder=4)
    axes.annotate(f"best: {number}", (x, y), xytext=(-9, 8), textcoords="offset points", weight="bold", ha="right")


def _importance(axes: Axes, importance: Mapping[str, Mapping[str, float]]) -> None:
    """Bars by choice, one for each objective."""
    sums = {choice: sum(shares.get(choice, 0.0) for shares in importance.values()) for choice in importance["both"]}
    choices = sorted(sums, key=lambda choice: sums[choice])[-LONGEST:]
    names = [name for name in importance if name != "both"]
    thick = 0.8 / len(names)
    for i, name in enumerate(names):
        places = np.arange(len(choices)) + (len(names) / 2 - i - 0.5) * thick
        values = [100 * importance[name].get(choice, 0.0) for choice in choices]
        axes.barh(places, values, height=0.9 * thick, color=colour(i + 1), label=name)
    axes.set_yticks(range(len(choices)), labels=choices)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("importance (%) after the shortest runs")
    axes.legend(frameon=False, loc="lower right")
