"""Adaptive: the learning rate follows the trend of a metric, inside bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from scipy import stats
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.data.rows import Row
from holdfast.params.importance import per_tensor, ranks
from holdfast.params.inventory import Param
from holdfast.rule import Rule, State, rules
from holdfast.run import Run
from holdfast.strategies.measuring import Metric, chosen, looked, weighed

CERTAINTY = 0.95
"""How sure it must be, by a t-test of the slope, that a trend is none of chance."""

RETURN = 0.1
"""How far the factor goes back to 1 within `window` observations that show no trend, as a share of its logarithm."""


@rules.register("adaptive")
class Adaptive(Rule):
    """The learning rate times a factor that rises when the metric gets better and falls when it gets worse.

    Every `every` steps one value is observed: of `metric`, the mean loss on `samples` rows of `source`, or the training
    loss; or whatever you hand to `observe`. A trend is the least-squares slope over the last `window` values where it
    is clear of its noise (t-test, 95 %), so a rise of 0.009 a step counts and noise does not. After a change of a trend
    that is clear of noise, the rate has turned within `window` observations. A trend that lasts for `window`
    observations changes the factor by `up` or `down`, each by the same part of that; without one it returns to 1.

    rate = clamp(scheduled * factor * share, minimum, maximum), and the bounds always hold, also where the schedule is
    at 0. The factor never runs beyond the bounds, so nothing has to be caught up with when the trend changes.
    `importance` gives each tensor its share = least ** rank, with rank 0 for the least important tensor (full rate) and
    1 for the most important: the name of a score (measured on `source` in `begin`) or scores by path. `learning_rate`
    is the highest rate applied in the last step, nan before the first.
    """

    def __init__(
        self,
        minimum: float = 1e-6,
        maximum: float = 1e-3,
        metric: Metric | None = None,
        source: Sequence[Row] | None = None,
        higher_is_better: bool = False,
        window: int = 5,
        up: float = 1.6,
        down: float = 0.6,
        every: int = 1,
        importance: str | Mapping[str, Tensor | float] | None = None,
        least: float = 0.1,
        samples: int = 64,
        pad_id: int = 0,
    ):
        if not 0 <= minimum <= maximum:
            raise BadInput(f"adaptive needs 0 <= minimum <= maximum, not {minimum} and {maximum}.")
        if window < 3 or every < 1 or not 0 < down <= 1 <= up or not 0 < least <= 1:
            raise BadInput("adaptive needs window >= 3, every >= 1, 0 < down <= 1 <= up and 0 < least <= 1.")
        self.minimum, self.maximum, self.window = minimum, maximum, window
        self.up, self.down, self.every, self.least = up, down, every, least
        self.higher_is_better, self.importance = higher_is_better, importance
        self.source, self.samples, self.pad_id = source, samples, pad_id
        self.metric = chosen("adaptive", metric, source, samples, pad_id)
        self.factor, self.learning_rate = 1.0, math.nan
        self._values: list[float] = []
        self._shares: dict[str, float] = {}
        self._given: list[float] = []
        self._reach = (0.0, math.inf)

    def begin(self, run: Run) -> None:
        if isinstance(self.importance, str):
            self._share(per_tensor(weighed(run, self.importance, self.source, self.samples, self.pad_id)))
        elif self.importance is not None:
            self._share({n: float(v.mean()) if isinstance(v, Tensor) else v for n, v in self.importance.items()})

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        given = learning_rate * self._shares.get(param.path, 1.0)
        self._given.append(given)
        return self._bounded(given * self.factor)

    def after(self, run: Run) -> None:
        if self._given:
            lowest, highest = min(self._given), max(self._given)
            self.learning_rate = self._bounded(highest * self.factor)
            self._reach = (self.minimum / highest if highest else 0.0, self.maximum / lowest if lowest else math.inf)
            self._given = []
        if run.step % self.every == 0:
            if self.metric is not None:
                self.observe(looked(run, self.metric))
            elif run.loss is not None:
                self.observe(float(run.agreed(run.loss)))

    def observe(self, value: float) -> None:
        """Take one value of the metric, and turn the factor where it shows a trend; raises BadInput for nan."""
        if not math.isfinite(value):
            raise BadInput(f"adaptive was given {value} as its metric, which has no trend; look at how it is measured.")
        self._values = [*self._values, float(value)][-self.window :]
        self.factor = self._turned(trend(self._values) if self.higher_is_better else -trend(self._values))

    def prepared(self) -> State:
        return {"shares": dict(self._shares)}

    def state(self) -> State:
        return {
            "factor": self.factor,
            "learning_rate": self.learning_rate,
            "values": list(self._values),
            "reach": list(self._reach),
        }

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        if prepared is not None:
            self._shares = dict(prepared["shares"])
        self.factor, self.learning_rate, self._values = state["factor"], state["learning_rate"], list(state["values"])
        self._reach = (state["reach"][0], state["reach"][1])

    def _share(self, importance: Mapping[str, float]) -> None:
        self._shares = {name: self.least**rank for name, rank in ranks(importance).items()}

    def _bounded(self, rate: float) -> float:
        return min(max(rate, self.minimum), self.maximum)

    def _turned(self, direction: int) -> float:
        """The next factor; it only goes where some tensor's rate can follow."""
        low, high = self._reach
        factor = min(self.factor, high)
        if direction > 0:
            return float(min(factor * self.up ** (1 / self.window), high))
        if direction < 0:
            return float(max(factor * self.down ** (1 / self.window), min(factor, low)))
        return float(factor ** (1 - RETURN / self.window))


def trend(values: Sequence[float]) -> int:
    """1 where values rise, -1 where they fall, 0 where their least-squares slope cannot be told from noise."""
    count = len(values)
    if count < 3:
        return 0
    times = np.arange(count) - (count - 1) / 2
    heights = np.asarray(values, dtype=np.float64)
    slope = times @ heights / (times @ times)
    rest = heights - heights.mean() - slope * times
    error = math.sqrt(rest @ rest / (count - 2) / (times @ times))
    rounding = 1e-12 * float(np.abs(heights).max())
    return int(np.sign(slope)) if abs(slope) > max(_sure(count - 2) * error, rounding) else 0


@cache
def _sure(freedom: int) -> float:
    """How many standard errors a slope has to be away from 0."""
    return float(stats.t.ppf((1 + CERTAINTY) / 2, freedom))
