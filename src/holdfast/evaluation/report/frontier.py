"""The frontier between learning and forgetting, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from holdfast.evaluation.report.drawing import (
    BUDGET,
    FAINT,
    INK,
    colour,
    dashes,
    marker,
    percent_scale,
    picture_file,
    style,
    write,
)
from holdfast.evaluation.report.records import Entry, number, percent


def frontier_picture(dialled: Entry, target: str | Path) -> Path:
    """Draw what dial.json tells: gain against the worst rise along each way, with intervals, and the chosen place."""
    target = picture_file(target)
    with style():
        figure = Figure(figsize=(8.0, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        ways: dict[str, Sequence[Entry]] = dict(dialled["frontiers"])
        budget = dialled.get("budget")
        limits = [100 * float(budget)] if isinstance(budget, int | float) else []
        reach = [percent(_worst(p)[key]) for points in ways.values() for p in points for key in ("low", "high")]
        percent_scale(axes, "x", reach, limits)
        for place, (name, points) in enumerate(ways.items()):
            _draw(axes, place, name, points)
        if (chosen := dialled.get("chosen")) is not None:
            _mark(axes, chosen)
        for limit in limits:
            axes.axvline(limit, color=BUDGET, linewidth=1.2)
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.axvline(0, color=FAINT, linewidth=0.8)
        axes.set_xlabel("forgetting: change of perplexity (%) on the worst guarded text")
        axes.set_ylabel("learning: gain on the new text (nats per token)")
        axes.legend(frameon=False, loc="lower right")
        return write(figure, target)


def _worst(point: Entry) -> dict[str, float]:
    """The largest rise of a place, with its interval, in nats."""
    entries: list[Any] = list(dict(point["rises"]).values())
    worst = max(entries, key=lambda entry: number(entry, "mean"))
    return {key: number(worst, key) for key in ("mean", "low", "high")}


def _draw(axes: Axes, place: int, name: str, points: Sequence[Entry]) -> None:
    hue, rises = colour(place), [_worst(point) for point in points]
    x, *ends = ([percent(rise[key]) for rise in rises] for key in ("mean", "low", "high"))
    y, *tops = ([number(point["gain"], key) for point in points] for key in ("mean", "low", "high"))
    sides, heights = _bars(x, *ends), _bars(y, *tops)
    axes.errorbar(x, y, heights, sides, color=hue, alpha=0.45, linewidth=0, elinewidth=1.0, capsize=2)
    axes.plot(x, y, color=hue, linestyle=dashes(place), marker=marker(place), markersize=4.5, label=name)
    for i in (0, len(points) - 1):
        axes.annotate(f"{number(points[i], 'setting'):g}", (x[i], y[i]), xytext=(5, -11), textcoords="offset points")


def _bars(means: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[list[float]]:
    """How far the ends of intervals lie below and above their means."""
    below = [max(0.0, mean - end) for mean, end in zip(means, low, strict=True)]
    return [below, [max(0.0, end - mean) for mean, end in zip(means, high, strict=True)]]


def _mark(axes: Axes, chosen: Entry) -> None:
    x, y = percent(_worst(chosen)["mean"]), number(chosen["gain"], "mean")
    axes.plot([x], [y], "o", markersize=12, markerfacecolor="none", color=INK, markeredgewidth=1.4)
    said = f"chosen: {number(chosen, 'setting'):.3f}"
    axes.annotate(said, (x, y), xytext=(10, 8), textcoords="offset points", weight="bold")
