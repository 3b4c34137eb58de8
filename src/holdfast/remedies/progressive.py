"""Progressive: a rule whose strength grows over the first steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from holdfast._errors import BadInput
from holdfast.params.inventory import Param
from holdfast.rule import Batch, Move, Rule, Window, Wrapper
from holdfast.run import Run


class Progressive(Wrapper):
    """The rule with `first` of its strength in the first step, and by even steps all of it from step `over` on.

    Its `strength` is the full one, which a governor turns as ever; in each step the share that is due multiplies it. A
    `first` above 1 begins strong and lets go. In recipes: `progressive: 200` beside a rule's own settings.
    """

    def __init__(self, over: int, rule: Rule, first: float = 0.0):
        super().__init__(rule)
        if over < 1 or first < 0:
            raise BadInput(f"progressive needs at least one step and a share of at least 0, not {over} and {first}.")
        if rule.strength is None:
            raise BadInput(f"progressive sets a strength over time, and {type(rule).__name__} has none.")
        self.over, self.first = over, first

    def share(self, step: int) -> float:
        """The share of the full strength after so many completed steps."""
        return self.first + (1 - self.first) * min(step / self.over, 1.0)

    def batch(self, run: Run, window: Window) -> Window:
        with self._at(self.share(run.step)):
            return super().batch(run, window)

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        with self._at(self.share(run.step)):
            return super().rate(run, param, learning_rate)

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor | None:
        with self._at(self.share(run.step)):
            return super().penalty(run, batch, outputs)

    def update(self, run: Run, move: Move) -> None:
        with self._at(self.share(run.step)):
            super().update(run, move)

    @contextmanager
    def _at(self, share: float) -> Iterator[None]:
        """The inner rule at a share of its strength."""
        full = self.rule.strength or 0.0
        self.rule.strength = full * share
        try:
            yield
        finally:
            self.rule.strength = full
