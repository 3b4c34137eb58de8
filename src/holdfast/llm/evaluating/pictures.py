"""The guide's pictures: a bar for each model, and rates over steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from holdfast.evaluation.report.drawing import COLOURS, FAINT, INK, colour, dashes, marker, picture_file, style, write

Bar = tuple[float, float | None, float | None]
"""A figure with the ends of its interval, None where they are not known."""


def bars(target: str | Path, metric: str, dataset: str, figures: Mapping[str, Bar]) -> Path:
    """What each model does on a data set by a metric."""
    with style():
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(figures))
        axes.bar(places, [value for value, _, _ in figures.values()], color=COLOURS[1], width=0.6)
        for place, (_, low, high) in zip(places, figures.values(), strict=True):
            if low is not None and high is not None:
                axes.plot([place, place], [low, high], color=INK, linewidth=1.2)
        axes.set_xticks(places, labels=list(figures), rotation=45)
        axes.set_xlabel("模型")
        axes.set_ylabel(metric)
        axes.set_title(f"{metric} 在 {dataset} 上的表现")
        return write(figure, picture_file(target))


def trend(
    target: str | Path, steps: Sequence[int], overall: Sequence[float], datasets: Mapping[str, Sequence[float]],
    band: Sequence[Mapping[str, Any] | None] = (),
) -> Path:  # fmt: skip
    """Forgetting rates over steps, of all data sets and of each; `band` is the interval of the signed one."""
    with style():
        figure = Figure(figsize=(12, 6), layout="constrained")
        axes = figure.subplots()
        if known := [(step, one) for step, one in zip(steps, band, strict=False) if one]:
            low, high = ([one[end] for _, one in known] for end in ("low", "high"))
            axes.fill_between([step for step, _ in known], low, high, color=FAINT, alpha=0.15, linewidth=0)
        axes.plot(steps, overall, "o-", label="总体遗忘率", linewidth=2, color=INK)
        for i, (name, rates) in enumerate(datasets.items()):
            axes.plot(steps, rates, marker=marker(i), linestyle=dashes(i), color=colour(i), label=name, markersize=4)
        axes.set_xlabel("训练步数")
        axes.set_ylabel("遗忘率")
        axes.set_title("灾难性遗忘趋势监控")
        axes.legend(loc="best")
        return write(figure, picture_file(target))


def file_name(text: str) -> str:
    """A name that stays inside its folder."""
    return re.sub(r"[/\\\0:]", "_", text)
