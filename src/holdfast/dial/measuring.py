"""What a place on the way has learnt and forgotten, and the furthest place that a budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from holdfast.budget import Guard
from holdfast.data.rows import Row
from holdfast.dial.line import Fractions, Line, Way
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.statistics import Interval, paired

LOOKS = 10
"""Halvings of the way in one search; the last one is a thousandth of it."""

TAUGHT = 64
"""Rows learnt from that tell which of two ways, or which block, has learnt more."""


@dataclass(frozen=True)
class Point:
    """A place on the way: its setting, and with intervals the gain on the new text and the rise of each old one.

    Gain and rises are in nats per token, on audit rows, which choose nothing.
    """

    setting: float
    gain: Interval
    rises: Mapping[str, Interval]

    @property
    def worst(self) -> Interval:
        """The largest rise."""
        return max(self.rises.values(), key=lambda rise: rise.mean)


@dataclass(frozen=True)
class Text:
    """Rows and the losses on them before."""

    rows: Sequence[Row]
    before: SequenceLosses

    def rise(self, model: nn.Module, pad_id: int) -> Interval:
        """The rise of the loss in nats per token."""
        return paired(self.before, sequence_losses(model, self.rows, pad_id=pad_id))


class Measure:
    """Measures places on a line: `guards` with their control texts choose, `taught` rows compare what was learnt."""

    def __init__(
        self,
        line: Line,
        guards: Sequence[Guard],
        control: Mapping[str, Text],
        taught: Sequence[Row],
        *,
        confidence: float = 0.995,
        pad_id: int = 0,
    ):
        self.line, self.guards, self.control, self.confidence, self.pad_id = line, guards, control, confidence, pad_id
        step = max(1, len(taught) // TAUGHT)
        self.taught = list(taught)[::step][:TAUGHT]

    def point(self, setting: float, fractions: Fractions, learnt: Text, kept: Mapping[str, Text]) -> Point:
        """What a place has learnt and forgotten, for people to see."""
        with self.line.at(fractions) as model:
            gain = learnt.rise(model, self.pad_id)
            rises = {name: text.rise(model, self.pad_id) for name, text in kept.items()}
        turned = Interval(-gain.mean, -gain.high, -gain.low, math.nan, gain.se, gain.n)
        return Point(setting, turned, rises)

    def used(self, fractions: Fractions) -> float:
        """The largest share of its aim that a guarded text has used on its control rows; up to 1 is inside."""
        with self.line.at(fractions) as model:
            rises = {guard.name: self.control[guard.name].rise(model, self.pad_id) for guard in self.guards}
        stretch = (g.stretch(r.mean, r.spread, r.n, self.confidence) for g in self.guards for r in [rises[g.name]])
        return max(1 / s if s else math.inf for s in stretch)

    def taught_loss(self, fractions: Fractions) -> float:
        """Nats per token on rows that were learnt from."""
        with self.line.at(fractions) as model:
            return sequence_losses(model, self.taught, pad_id=self.pad_id).mean()

    def order(self) -> list[str]:
        """The blocks, that one first which takes back most of the forgetting for the least of the learning."""
        blocks = list(self.line.blocks)
        whole = dict.fromkeys(blocks, 1.0)
        used, loss = self.used(whole), self.taught_loss(whole)
        worth = {}
        for block in blocks:
            without = {**whole, block: 0.0}
            relief, cost = used - self.used(without), self.taught_loss(without) - loss
            worth[block] = relief / cost if cost > 0 else math.copysign(math.inf, relief)
        return sorted(blocks, key=lambda block: -worth[block])

    def largest(self, way: Way) -> float:
        """The largest setting that bisection finds inside the budget; 0, the model before, where there is none."""
        return bisected(lambda setting: self.used(way(setting)) <= 1)


def bisected(inside: Callable[[float], bool]) -> float:
    """1 where that is inside, else a setting that is, at most a thousandth below one that is not."""
    if inside(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(LOOKS):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) else (low, middle)
    return low
