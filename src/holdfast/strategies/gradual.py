"""Gradual: the learning rate decays by a named schedule of the number of updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from holdfast._errors import BadInput, UnknownName
from holdfast.params.inventory import Param
from holdfast.rule import Rule, rules
from holdfast.run import Run

STEEPNESS = 5.0
"""The exponential schedule falls like exp(-5 x), moved so that it ends at 0."""

schedules: Mapping[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "exponential": lambda x: math.expm1(STEEPNESS * (1 - x)) / math.expm1(STEEPNESS),
    "sqrt": lambda x: 1 - math.sqrt(x),
}
"""From 1 at 0 to 0 at 1, of the share of the updates that are done."""


@rules.register("gradual")
class Gradual(Rule):
    """The learning rate of every tensor, times a share that falls from 1 to `floor` over `over` updates.

    share(n) = floor + (1 - floor) * schedule(min(n / over, 1)) with n the completed optimiser steps, so that all
    tensors of a step have the same share, in whatever order they come, and a resumed run goes on where it was. It
    multiplies the scheduler's rate. Raises UnknownName for a schedule that does not exist: linear, cosine, exponential
    or sqrt.
    """

    def __init__(self, schedule: str = "linear", over: int = 1000, floor: float = 0.0):
        if schedule not in schedules:
            raise UnknownName("schedule", schedule, schedules)
        if over < 1 or not 0 <= floor <= 1:
            raise BadInput(f"gradual needs over >= 1 and 0 <= floor <= 1, not over={over} and floor={floor}.")
        self.schedule, self.over, self.floor = schedule, over, floor

    def share(self, updates: int) -> float:
        """The share of the learning rate that is left after so many updates."""
        left = schedules[self.schedule](min(updates / self.over, 1.0))
        return self.floor + (1 - self.floor) * left

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        return learning_rate * self.share(run.step)
