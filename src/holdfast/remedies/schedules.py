"""How much is replayed, step by step: schedules of the share of old rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast._errors import BadInput
from holdfast._registry import Registry

Schedule = Callable[[int, int], float]
"""(completed steps, steps in all) -> the share of old rows in the next step's batches, in [0, 1)."""

schedules: Registry[Callable[..., Schedule]] = Registry("schedule of a share")
"""Schedules by the name that recipes use: `share: {linear: {start: 0.2, end: 0.04}}`."""


@schedules.register("linear")
@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a straight line over the run."""

    start: float = 0.2
    end: float = 0.04

    def __call__(self, step: int, total: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, step / total)


@schedules.register("cosine")
@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` along half a cosine over the run."""

    start: float = 0.3
    end: float = 0.1

    def __call__(self, step: int, total: int) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2


@schedules.register("periodic")
@dataclass(frozen=True)
class Periodic:
    """`share` in the last `burst` steps of every `every`, and nothing in between."""

    share: float = 0.5
    every: int = 20
    burst: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.burst <= self.every:
            raise BadInput(f"A periodic share needs 1 <= burst <= every, not {self.burst} and {self.every}.")

    def __call__(self, step: int, total: int) -> float:
        return self.share if step % self.every >= self.every - self.burst else 0.0


@schedules.register("governed")
@dataclass(frozen=True)
class Governed:
    """`start` times the strength that a governor gives the rule, but never more than `most`."""

    start: float = 0.1
    most: float = 0.5

    def __call__(self, step: int, total: int) -> float:
        return self.start

    def at(self, strength: float) -> float:
        """The share at a strength."""
        return min(self.start * strength, self.most)


ENDLESS = (Periodic, Governed)
"""Schedules that need not know how many steps there will be."""


def schedule(given: float | str | Mapping[str, Any] | Schedule) -> float | Schedule:
    """A share or its schedule, from how a recipe says it: 0.25, `linear`, `{linear: {start: 0.2}}`; or any callable.

    Raises BadInput for a share outside [0, 1), UnknownName for a schedule that does not exist.
    """
    if not isinstance(given, str | Mapping):
        return given if callable(given) else checked(given, "share")
    made: Schedule = schedules.made(given)
    for knob, value in vars(made).items():
        if knob in ("share", "start", "end", "most"):
            checked(value, f"the {knob} of its share")
    return made


def checked(share: float, what: str) -> float:
    """A share that can be one; raises BadInput."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise BadInput(f"replay: {what} is a part of the batch, 0 <= share < 1, not {share!r}.")
    return share


def average(given: float | str | Mapping[str, Any] | Schedule, total: int) -> float:
    """Old rows per new row over a whole run of `total` steps; what a governor will do is not known."""
    share = schedule(given)
    if not callable(share):
        return share / (1 - share)
    shares = [checked(share(step, total), "share") for step in range(total)]
    return sum(s / (1 - s) for s in shares) / max(1, total)
