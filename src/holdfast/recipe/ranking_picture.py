"""The picture of an evaluation: how often the next item is found, and how high it stands, by model and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from holdfast.evaluation.report.drawing import FAINT, INK, colour, picture_file, style, write
from holdfast.evaluation.report.headline import signed
from holdfast.recipe.ranking_table import at_of, called, interval_of

NOTE = "lines: 95 % intervals over users"


def ranking_picture(found: Mapping[str, Any], target: str | Path) -> Path:
    """Draw hit rate and gain at 10 (or the largest K below) with their intervals, as `evaluate_items` gives them."""
    target = picture_file(target)
    names = list(found["rankings"])
    with style():
        figure = Figure(figsize=(8.6, 1.5 + 0.36 * len(names)), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, measure in zip(figure.subplots(1, 2, sharey=True), ("hr", "ndcg"), strict=True):
            _bars(axes, found, f"{measure}@{at_of(found)}", names)
        cases = next(iter(found["rankings"].values()))["cases"]
        figure.suptitle(f"{found['items']['name']}, {found['split']}: {cases:,} cases; {NOTE}", fontsize=9, color=FAINT)
        return write(figure, target)


def _bars(axes: Axes, found: Mapping[str, Any], measure: str, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        mean, low, high = (100 * value for value in interval_of(found["rankings"][name], measure))
        hue = colour(1) if place == 0 else FAINT
        axes.barh(place, mean, height=0.62, color=hue, alpha=0.85 if place == 0 else 0.45)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.3, solid_capstyle="butt")
        axes.annotate(f"{mean:.2f}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    above = found["above"][measure]
    shown = signed(100 * above["mean"], 2)
    ends = ", ".join(signed(100 * above[end], 2) for end in ("low", "high"))
    axes.set_xlabel(f"{called(measure)} (%)\nmodel − {above['baseline']}: {shown} [{ends}]")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
