"""The matrix of a sequence of tasks: what each model along the way does on each task, and the figures that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.scored import Floats, of_losses, ratio, shares
from holdfast.evaluation.statistics import Interval, draws

FIGURES = {
    "accuracy": "ACC: the mean over all tasks, after the last one",
    "learning_accuracy": "the mean over the tasks, each right after it was learnt",
    "backward_transfer": "BWT: what the later tasks did to the earlier ones, mean over all but the last",
    "forward_transfer": "FWT: what the earlier tasks did for a task before it was learnt, against the base",
    "forgetting": "what was lost of the best that a task ever reached (max - last), mean over all but the last",
}
"""The figures by name, and what they are. For losses they are told the same way round: a negative BWT is forgetting."""

LEVEL, RESAMPLES = 0.95, 2000


@dataclass(frozen=True, eq=False)
class Items:
    """One model on the test items of one task: `sums` over `weights`, float64 [items]; an accuracy weighs each by 1.

    Items stand for what is independent: a text that was read in several rows is one item.
    """

    sums: Floats
    weights: Floats

    @property
    def mean(self) -> float:
        """The weighted mean, as the matrix shows it."""
        return float(self.sums.sum() / self.weights.sum())


def items(scored: SequenceLosses | Tensor) -> Items:
    """Items from losses (nats, weighted by tokens, texts whole) or from one figure per example (float [examples])."""
    whole = (shares(scored) if isinstance(scored, Tensor) else of_losses(scored)).items().stats
    kept = whole[:, 1] > 0
    return Items(whole[kept, 0], whole[kept, 1])


@dataclass(frozen=True, eq=False)
class Matrix:
    """`cells[i, j]`: the model after `i` tasks (0: the base) on task `j` (from 0); what was not measured is absent.

    Every model reads the same items of a task, so that all differences are paired. `higher` says that more is better
    (accuracies); otherwise the cells are losses. `learnt` says after how many tasks each column was learnt; None: the
    columns are all tasks in order. Lopez-Paz & Ranzato (2017), arXiv:1706.08840, for ACC, BWT and FWT
    (against the base instead of random weights); Chaudhry et al. (2018), arXiv:1801.10112, for forgetting.
    """

    tasks: tuple[str, ...]
    cells: Mapping[tuple[int, int], Items]
    higher: bool = True
    learnt: tuple[int, ...] | None = None
    level: float = LEVEL
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        for j, name in enumerate(self.tasks):
            sizes = {len(cell.sums) for (_, task), cell in self.cells.items() if task == j}
            if len(sizes) > 1:
                raise BadInput(f"The models were scored on different items of {name}; their figures cannot be paired.")

    @cached_property
    def stages(self) -> int:
        """How many tasks have been learnt: the last model that was scored."""
        return max((i for i, _ in self.cells), default=0)

    @cached_property
    def values(self) -> Floats:
        """The means, float64 [stages + 1, tasks]; nan where nothing was measured."""
        table = np.full((self.stages + 1, len(self.tasks)), np.nan)
        for (i, j), cell in self.cells.items():
            table[i, j] = cell.mean
        return table

    @cached_property
    def drawn(self) -> Floats:
        """The means on resampled items, float64 [resamples, stages + 1, tasks]; paired: one draw for all models."""
        tables = np.full((self.resamples, self.stages + 1, len(self.tasks)), np.nan)
        for j in range(len(self.tasks)):
            column = {i: cell for (i, task), cell in self.cells.items() if task == j}
            for stage, means in _resampled(column, self.resamples, self.seed + j).items():
                tables[:, stage, j] = means
        return tables

    def figures(self) -> dict[str, Interval]:
        """Every figure of `FIGURES` with its bootstrap interval over test items; nan where it is not defined yet."""
        n = sum(len(cell.sums) for (stage, _), cell in self.cells.items() if stage == self.stages)
        means, drawn = (figures(table, self.higher, self.learnt) for table in (self.values, self.drawn))
        return {name: _interval(float(means[name]), drawn[name], self.level, n) for name in FIGURES}

    def cell(self, stage: int, task: int) -> Interval | None:
        """One entry with its interval; None where it was not measured."""
        if (found := self.cells.get((stage, task))) is None:
            return None
        return _interval(found.mean, self.drawn[:, stage, task], self.level, len(found.sums))

    def told(self) -> dict[str, Any]:
        """The matrix in plain values, for a file."""
        entries = [[self.cell(i, j) for j in range(len(self.tasks))] for i in range(self.stages + 1)]
        return {
            "tasks": list(self.tasks),
            "higher": self.higher,
            "learnt": list(self.learnt or range(1, len(self.tasks) + 1)),
            "cells": [[entry and _told(entry) for entry in row] for row in entries],
            "figures": {name: _told(figure) for name, figure in self.figures().items()},
        }


def figures(values: ArrayLike, higher: bool = True, learnt: Sequence[int] | None = None) -> dict[str, Floats]:
    """The figures of `FIGURES` for matrices [..., stages + 1, tasks]; of a sequence that goes on, of its first tasks.

    With a[i][j] after i tasks on task j (tasks from 1) and T tasks learnt: ACC = mean a[T][j]; learning accuracy =
    mean a[j][j]; BWT = sum over j < T of a[T][j] - a[j][j], divided by T - 1; FWT = sum over j > 1 of
    a[j-1][j] - a[0][j], divided by T - 1; forgetting = sum over j < T of max over j <= l < T of a[l][j], less a[T][j],
    divided by T - 1. Losses change sign but for ACC and learning accuracy. `learnt` says after how many tasks each
    column was learnt, where the columns are not all tasks of the sequence; sums then run over these columns.
    """
    table = np.asarray(values, dtype=np.float64)
    stages, at = table.shape[-2] - 1, np.arange(1, table.shape[-1] + 1) if learnt is None else np.asarray(learnt)
    done = np.flatnonzero(at <= stages)
    good, at = (table if higher else -table)[..., done], at[done]
    columns, sign = np.arange(len(done)), 1 if higher else -1
    last, fresh, before = good[..., -1, :], good[..., at, columns], good[..., at - 1, columns]
    since = np.where(np.arange(stages + 1)[:, None] >= at, good, -np.inf)[..., : max(stages, 1), :]
    earlier, later = at < stages, at > 1
    return {
        "accuracy": sign * _mean(last),
        "learning_accuracy": sign * _mean(fresh),
        "backward_transfer": _mean((last - fresh)[..., earlier]),
        "forward_transfer": _mean((before - good[..., 0, :])[..., later]),
        "forgetting": _mean((since.max(-2) - last)[..., earlier]),
    }


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of one figure per seed, with Student's interval; nothing is known of the spread of a single seed."""
    given = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
    n = len(given)
    if n < 2:
        mean = float(given[0]) if n else math.nan
        return Interval(mean, -math.inf, math.inf, math.inf, math.inf, n)
    mean, se = float(given.mean()), float(given.std(ddof=1)) / math.sqrt(n)
    half, bound = (float(student.ppf(p, n - 1)) * se for p in ((1 + level) / 2, level))
    return Interval(mean, mean - half, mean + half, mean + bound, se, n)


def _mean(columns: Floats) -> Floats:
    """The mean over the last axis; nan where it has no entries."""
    return columns.mean(-1) if columns.shape[-1] else np.full(columns.shape[:-1], np.nan)


def _resampled(column: Mapping[int, Items], resamples: int, seed: int) -> dict[int, Floats]:
    """For each model the means [resamples] on the same resampled items; nan where there is but one."""
    if not column:
        return {}
    n = len(next(iter(column.values())).sums)
    if n < 2:  # nothing is known of the spread of a single item
        return {stage: np.full(resamples, np.nan) for stage in column}
    stats = np.concatenate([np.stack([cell.sums, cell.weights], axis=-1) for cell in column.values()], axis=-1)
    means = np.concatenate([ratio(sums.reshape(len(sums), -1, 2)) for sums in draws(stats, resamples, seed)])
    return dict(zip(column, means.T, strict=True))


def _interval(mean: float, drawn: Floats, level: float, n: int) -> Interval:
    """Percentiles of the resampled figures: forgetting takes a maximum, for which no correction is defined."""
    if not math.isfinite(mean) or not np.isfinite(drawn).all():
        return Interval(mean, math.nan, math.nan, math.nan, math.nan, n)
    tail = (1 - level) / 2
    low, high, upper = (float(q) for q in np.quantile(drawn, [tail, 1 - tail, level]))
    return Interval(mean, low, high, upper, float(drawn.std(ddof=1)), n)


def _told(interval: Interval) -> dict[str, float | int]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "se": interval.se, "n": interval.n}
