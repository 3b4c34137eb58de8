"""What all candidates share: the base, its texts and its losses on them, read and measured once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from holdfast.base import Base
from holdfast.data.probes import Probe
from holdfast.data.rows import Row, documents
from holdfast.evaluation.certificate import Audited
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.statistics import Interval, paired
from holdfast.recipe.schema import Recipe
from holdfast.recipe.texts import Texts

LEARNT = "learnt"
"""The name of the evaluation text among losses; guarded texts go by `kept/` and their own name."""

Losses = Mapping[str, SequenceLosses]


class SharedTexts(Texts):
    """A recipe's texts for many runs: rows that rules ask for are made once as well."""

    def __init__(self, recipe: Recipe, base: Base):
        super().__init__(recipe, base)
        self._sources: dict[str, Sequence[Row]] = {}

    def source(self, names: str | Sequence[str]) -> Sequence[Row]:
        """Rows for a rule, the same ones whoever asks."""
        key = repr(names)
        if key not in self._sources:
            self._sources[key] = super().source(names)
        return self._sources[key]


@dataclass(frozen=True)
class Figures:
    """What a recipe learnt and kept, in nats per token: `gain` on the new text, the rise of each kept text.

    `limits` are the budgets in nats, of the texts that have one.
    """

    gain: Interval
    rises: Mapping[str, Interval]
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def forgetting(self) -> float:
        """The worst rise; with budgets, of the texts that have one, each in units of the tightest budget.

        So it is above the tightest budget where any budget is broken. 0 where nothing is kept.
        """
        least = min(self.limits.values(), default=0.0)
        shares = {name: least / limit for name, limit in self.limits.items()} or dict.fromkeys(self.rises, 1.0)
        return max((self.rises[name].mean * share for name, share in shares.items()), default=0.0)

    @property
    def finite(self) -> bool:
        """Whether all of it is a number."""
        return math.isfinite(self.gain.mean) and all(math.isfinite(rise.mean) for rise in self.rises.values())

    def fits(self, limits: Mapping[str, float]) -> bool:
        """Whether the upper bound of each rise is inside its budget, in nats."""
        return all(self.rises[name].upper <= limit for name, limit in limits.items())


class Ground:
    """The base, texts and losses that all candidates share.

    `choosing` rows are what candidates are compared on: the control part of each kept text, and the first half of the
    documents of the evaluation text. `judging` rows choose nothing and are asked of whole runs alone: the audit parts,
    and the other half of the documents. Where the evaluation text is a single document, both are all of it.
    """

    def __init__(self, recipe: Recipe, base: Base, texts: Texts | None = None):
        self.recipe, self.base = recipe, base
        self.texts = texts or SharedTexts(recipe, base)

    @cached_property
    def choosing(self) -> dict[str, Audited]:
        """Rows and the base's losses on them, by text."""
        return self._part("control", 0)

    @cached_property
    def judging(self) -> dict[str, Audited]:
        """Rows and the base's losses on them, by text."""
        return self._part("audit", 1)

    @property
    def limits(self) -> dict[str, float]:
        """The budget of each kept text that has one, in nats per token."""
        budgets = {name: self.recipe.keep.budget_of(name) for name in self.recipe.keep.texts}
        return {name: math.log1p(budget) for name, budget in budgets.items() if budget is not None}

    @property
    def limit(self) -> float | None:
        """The tightest budget, in nats per token."""
        return min(self.limits.values(), default=None)

    def measured(self, model: nn.Module, texts: Mapping[str, Audited]) -> dict[str, SequenceLosses]:
        """A model's losses on the rows of texts."""
        return {name: self._losses(model, text.probe) for name, text in texts.items()}

    def figures(self, after: Losses, texts: Mapping[str, Audited]) -> Figures:
        """Gain and rises beside the base."""
        rises = {name: paired(text.before, after[name]) for name, text in texts.items()}
        gain = turned(rises.pop(LEARNT))
        return Figures(gain, {name.removeprefix("kept/"): rise for name, rise in rises.items()}, self.limits)

    def _part(self, part: str, half: int) -> dict[str, Audited]:
        probes = {LEARNT: halved(self.texts.learn[1], half)}
        probes |= {f"kept/{name}": getattr(text, part) for name, text in self.texts.guarded.items()}
        return {name: Audited(probe, self._losses(self.base.model, probe)) for name, probe in probes.items()}

    def _losses(self, model: Any, probe: Probe) -> SequenceLosses:
        return sequence_losses(model, probe.rows, pad_id=self.base.pad_id)


def halved(probe: Probe, half: int) -> Probe:
    """The rows of every second document of a probe, from the first or the second on; all of them where it has one."""
    owners = documents(probe.rows)
    places = {document: i for i, document in enumerate(dict.fromkeys(owners))}
    if len(places) < 2:
        return probe
    kept = [row for row, owner in zip(probe.rows, owners, strict=True) if places[owner] % 2 == half]
    return replace(probe, rows=kept, digest="")


def turned(rise: Interval) -> Interval:
    """A rise as a gain."""
    return Interval(-rise.mean, -rise.high, -rise.low, math.nan, rise.se, rise.n)
