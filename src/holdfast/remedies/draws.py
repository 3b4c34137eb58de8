"""Which rows are replayed next: all in turn, or those first that are said, or found, to need it most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from holdfast._errors import BadInput
from holdfast._registry import Registry
from holdfast.data.rows import Row
from holdfast.evaluation.loss import sequence_losses
from holdfast.rule import State
from holdfast.run import Run

Priority = Callable[[Run, Sequence[Row]], Tensor | Sequence[float]]
"""How much each row needs to be replayed; what is below 0, or not finite, counts as 0."""


class Draw(Protocol):
    """Draws rows of a source by their numbers; every process draws the same."""

    def begin(self, run: Run, source: Sequence[Row], generator: Generator) -> None:
        """Before the first step."""

    def draw(self, run: Run, source: Sequence[Row], generator: Generator, count: int) -> list[int]:
        """The numbers of the next `count` rows."""

    def state(self) -> State:
        """What `restore` needs."""

    def restore(self, state: State) -> None:
        """Go on where `state` was."""


draws: Registry[Callable[..., Draw]] = Registry("order of drawing")
"""Orders of drawing by the name that recipes use: `draw: {increase: {refresh: 100}}`."""


@draws.register("shuffled")
class Shuffled:
    """Without replacement, until all rows were seen; then anew in another order."""

    def __init__(self) -> None:
        self._order: list[int] = []

    def begin(self, run: Run, source: Sequence[Row], generator: Generator) -> None:
        pass

    def draw(self, run: Run, source: Sequence[Row], generator: Generator, count: int) -> list[int]:
        while len(self._order) < count:
            self._order += torch.randperm(len(source), generator=generator).tolist()
        drawn, self._order = self._order[:count], self._order[count:]
        return drawn

    def state(self) -> State:
        return {"order": list(self._order)}

    def restore(self, state: State) -> None:
        self._order = list(state["order"])


class Prioritised:
    """A share `uniform` of the rows is drawn in turn; the others by priority, from rows that were looked at.

    Every `refresh` steps it looks at `candidates` rows (all, where there are no more). A row's chance is in proportion
    to its priority, which counts at most as much as that of the `cap` quantile of the rows looked at: what no model can
    learn (noise, wrong labels) always has the highest loss, and would be drawn for ever.
    """

    def __init__(
        self,
        priority: Priority,
        uniform: float = 0.5,
        refresh: int = 50,
        candidates: int = 128,
        cap: float = 0.95,
    ):
        if not 0 <= uniform <= 1 or refresh < 1 or candidates < 1 or not 0 < cap <= 1:
            raise BadInput(
                "Prioritised replay needs 0 <= uniform <= 1, refresh >= 1, candidates >= 1 and 0 < cap <= 1, not "
                f"uniform={uniform}, refresh={refresh}, candidates={candidates} and cap={cap}."
            )
        self.priority, self.uniform, self.refresh, self.candidates, self.cap = (
            priority, uniform, refresh, candidates, cap,
        )  # fmt: skip
        self._turns = Shuffled()
        self._looked: list[int] = []
        self._weights = torch.empty(0, dtype=torch.float64)
        self._next = 0

    def begin(self, run: Run, source: Sequence[Row], generator: Generator) -> None:
        self._look(run, source, generator)

    def draw(self, run: Run, source: Sequence[Row], generator: Generator, count: int) -> list[int]:
        if run.step >= self._next:
            self._look(run, source, generator)
        in_turn = int((torch.rand(count, generator=generator) < self.uniform).sum())
        return [*self._turns.draw(run, source, generator, in_turn), *self._likely(generator, count - in_turn)]

    def state(self) -> State:
        return {
            "turns": self._turns.state(), "looked": list(self._looked), "weights": self._weights, "next": self._next,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        self._turns.restore(state["turns"])
        self._looked, self._weights, self._next = list(state["looked"]), state["weights"], state["next"]

    def _look(self, run: Run, source: Sequence[Row], generator: Generator) -> None:
        """Measure the priorities of other candidates, as they are now."""
        self._looked = sorted(torch.randperm(len(source), generator=generator)[: self.candidates].tolist())
        with run.aside():
            found = self.priority(run, [source[i] for i in self._looked])
        priorities = torch.as_tensor(found, dtype=torch.float64).detach().cpu()
        if priorities.shape != (len(self._looked),):
            raise BadInput(
                f"A priority is one number for each of the {len(self._looked)} rows that it was asked about; what came "
                f"has the shape {list(priorities.shape)}."
            )
        self._weights = capped(run.agreed(priorities), self.cap)
        self._next = run.step + self.refresh

    def _likely(self, generator: Generator, count: int) -> list[int]:
        """Rows by their weights, none twice before all of them came."""
        drawn: list[int] = []
        possible = int(self._weights.count_nonzero())
        while len(drawn) < count:
            some = torch.multinomial(self._weights, min(possible, count - len(drawn)), generator=generator)
            drawn += [self._looked[i] for i in some.tolist()]
        return drawn


def capped(priorities: Tensor, cap: float) -> Tensor:
    """Weights to draw by, float64 [rows]: nothing below 0, nothing above the `cap` quantile; even where all are 0."""
    found = priorities.double().nan_to_num(0.0, posinf=0.0).clamp_min(0.0)
    weights = found.clamp_max(float(torch.quantile(found, cap)))
    return weights / weights.max() if bool(weights.any()) else torch.ones_like(weights)


def loss(run: Run, rows: Sequence[Row]) -> Tensor:
    """The present loss of each row in nats per token, float64 [rows]."""
    return sequence_losses(run.model, rows).each()


def increase(run: Run, rows: Sequence[Row]) -> Tensor:
    """By how much the loss of each row has risen since the run began, in nats per token, float64 [rows].

    Maximally interfered retrieval, Aljundi et al. (2019), arXiv:1908.04742, asks what one step would do to a row; this
    asks what all steps so far did, which needs no step on trial.
    """
    base = run.base.values
    now = loss(run, rows)
    with run.at(base):
        return now - loss(run, rows)


@draws.register("loss")
def _by_loss(uniform: float = 0.5, refresh: int = 50, candidates: int = 128, cap: float = 0.95) -> Draw:
    return Prioritised(loss, uniform, refresh, candidates, cap)


@draws.register("increase")
def _by_increase(uniform: float = 0.5, refresh: int = 50, candidates: int = 128, cap: float = 0.95) -> Draw:
    return Prioritised(increase, uniform, refresh, candidates, cap)


def drawing(given: str | Mapping[str, Any] | Priority | Draw) -> Draw:
    """An order of drawing as a recipe says it, a priority of one's own, or one that is made already."""
    if isinstance(given, str | Mapping):
        made: Draw = draws.made(given)
        return made
    return Prioritised(given) if callable(given) else given
