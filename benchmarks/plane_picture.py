"""A picture of what each method learns against what it forgets, and which ones none beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from holdfast.evaluation.report.drawing import FAINT, INK, colour, picture_file, style, write

PLANE, NAMES = 5.2, 2.6
"""Inches of a plane, and of the names at the side."""


def front(summary: list[dict[str, Any]]) -> list[str]:
    """The cases that none beats both in what is learnt and in what is forgotten."""
    return [
        one["case"] for one in summary
        if not any((o["accuracy"] >= one["accuracy"] and o["rise"] < one["rise"])
                   or (o["accuracy"] > one["accuracy"] and o["rise"] <= one["rise"]) for o in summary)
    ]  # fmt: skip


def picture(
    summary: list[dict[str, Any]],
    fronts: dict[str, list[str]],
    file: Path,
    *,
    learnt: str = "answers right (lowest and highest seed)",
    forgotten: str = "stories forgotten, nats per token (95 %)",
    logarithmic: bool = False,
) -> None:
    """One plane for each task, methods by number, the front as a line; the numbers are told at the side."""
    cases = list(dict.fromkeys(row["case"] for row in summary))
    with style():
        width = PLANE * len(fronts) + NAMES
        figure = Figure(figsize=(width, 5.4), layout="constrained")
        edge = PLANE * len(fronts) / width
        figure.get_layout_engine().set(rect=(0, 0, edge, 1))  # type: ignore[union-attr]
        planes = figure.subplots(1, len(fronts), squeeze=False)[0]
        for axes, (task, front) in zip(planes, fronts.items(), strict=True):
            _plane(axes, task, [row for row in summary if row["task"] == task], cases, front)
            axes.set_xlabel(forgotten)
            axes.set_ylabel(learnt)
            if logarithmic:
                axes.set_xscale("symlog", linthresh=0.01)
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        told = "\n".join(f"{i:2}  {case}" for i, case in enumerate(cases, 1))
        figure.text(edge, 0.5, told, ha="left", va="center", fontsize=8, color=INK, family="monospace")
        write(figure, picture_file(file))


def _plane(axes: Axes, task: str, rows: list[dict[str, Any]], cases: list[str], front: list[str]) -> None:
    best = sorted((row for row in rows if row["case"] in front), key=lambda row: row["rise"])
    axes.plot([row["rise"] for row in best], [row["accuracy"] for row in best], color=FAINT, zorder=1)
    for row in rows:
        number, on_front = cases.index(row["case"]) + 1, row["case"] in front
        hue = colour(0) if on_front else FAINT
        axes.plot([row["low"], row["high"]], [row["accuracy"]] * 2, color=hue, linewidth=1, zorder=2)
        axes.plot([row["rise"]] * 2, [row["lowest"], row["highest"]], color=hue, linewidth=1, zorder=2)
        axes.plot([row["rise"]], [row["accuracy"]], "o", color=hue, markersize=4, zorder=3)
        axes.annotate(
            str(number), (row["rise"], row["accuracy"]), (3, 3), textcoords="offset points", fontsize=8,
            color=INK if on_front else "0.45", weight="bold" if on_front else "normal",
        )  # fmt: skip
    axes.set_title(task)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
