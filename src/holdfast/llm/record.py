"""What happened so far: metrics, levels, which parameters moved, how often and how fast; a rule that only looks."""

from __future__ import annotations

import math
import time
from collections import deque

import numpy as np
import torch
from torch import Tensor

from holdfast.llm.levels import ParameterImportanceAnalyzer, UpdateHistory
from holdfast.rule import Kind, Move, Rule, State
from holdfast.run import Run


class Record(Rule):
    """Stands last in the list, so that what it sees of a movement is what stays.

    Metrics, counts and the last analysis are part of the run's state and go back with a rollback; `history`, of at most
    `size` entries, is a log and does not. `moved` maps the paths that moved in the last step to the learning rate that
    was applied.
    """

    kind, looks_back = Kind.WAIT, True

    def __init__(self, size: int, window: int, strategy: str):
        self.history: deque[UpdateHistory] = deque(maxlen=size)
        self.analyzer = ParameterImportanceAnalyzer()
        self.metrics: deque[float] = deque(maxlen=window)
        self.counts: dict[str, int] = {}
        self.times: dict[str, float] = {}
        self.moved: dict[str, float] = {}
        self.change = math.nan
        self._strategy = strategy

    def observe(self, metric: float | None) -> None:
        """Take one value of the metric, or note that there is none this time."""
        self.change = math.nan if metric is None or not self.metrics else metric - self.metrics[-1]
        if metric is not None:
            self.metrics.append(metric)
        self.moved = {}

    def update(self, run: Run, move: Move) -> None:
        assert move.before is not None
        if torch.equal(move.before, move.after):
            return
        path, now = move.param.path, time.time()
        self.counts[path] = self.counts.get(path, 0) + 1
        self.times[path], self.moved[path] = now, move.learning_rate
        old, new, way = map(_norm, (move.before, move.after, move.after - move.before))
        entry = UpdateHistory(now, path, old, new, way, move.learning_rate, self.change, self._strategy)
        self.history.append(entry)

    def state(self) -> State:
        counted = {"metrics": list(self.metrics), "counts": dict(self.counts), "times": dict(self.times)}
        return {**counted, "analysis": self.analyzer.state()}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        self.metrics.clear()
        self.metrics.extend(state["metrics"])
        self.counts, self.times = dict(state["counts"]), dict(state["times"])
        self.analyzer.restore(state["analysis"])

    def statistics(self) -> dict[str, float]:
        """Of the metrics in the window: the last one, mean, slope per observation, and standard deviation.

        nan before the first metric; the slope of a single one is 0.
        """
        values = np.array(self.metrics, dtype=np.float64)
        seen = len(values) > 0
        slope = float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0
        return {
            "current_performance": float(values[-1]) if seen else math.nan,
            "average_performance": float(values.mean()) if seen else math.nan,
            "performance_trend": slope if seen else math.nan,
            "performance_std": float(values.std()) if seen else math.nan,
        }


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
