"""Alarms that stay true however often one looks: each look may spend a part of the chance of a false one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import t

from holdfast.evaluation.statistics import Interval


def spent(look: int, error: float = 0.05) -> float:
    """What look number 1, 2, … may spend of the chance of any false alarm: 6 error / (pi look)^2; all sum to `error`.

    By the union bound the chance of a false alarm over all looks is at most `error`, however looks depend on each
    other (they share items) and whenever one stops. A confidence sequence for streams would not fit: a run reads the
    same items again while the model changes.
    """
    return 6 * error / (math.pi * look) ** 2


@dataclass(frozen=True)
class Alarm:
    """A look that found a text worse than its margin: `lower` is the bound that stands after all looks so far."""

    text: str
    step: int
    look: int
    rise: float
    lower: float
    margin: float

    def __str__(self) -> str:
        rise, lower, allowed = (
            f"{100 * math.expm1(min(nats, 50.0)):.3g} %" for nats in (self.rise, self.lower, self.margin)
        )
        return (
            f"At step {self.step}, the perplexity of {self.text} is up by {rise}, and by at least {lower} with 95 % "
            f"confidence over all looks so far; {allowed} was allowed. A lower learning rate, replay of such text or a "
            "budget (`keep.budget`) holds it back."
        )


def lower_bound(found: Interval, error: float) -> float:
    """The one-sided lower bound of a mean whose chance of being too high is `error` (Student's t)."""
    if found.n < 2 or not math.isfinite(found.se):
        return math.inf if found.mean == math.inf else -math.inf
    return found.mean - float(t.isf(error, found.n - 1)) * found.se


def alarm(text: str, step: int, look: int, rise: Interval, margin: float, error: float = 0.05) -> Alarm | None:
    """The alarm of a look, if its bound says that the true rise is beyond the margin."""
    lower = lower_bound(rise, spent(look, error))
    return Alarm(text, step, look, rise.mean, lower, margin) if lower > margin else None
