"""Incremental: weights move every n steps, and nothing of what came between is dropped."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.params.weights import local
from holdfast.rule import Kind, Move, Rule, State, rules
from holdfast.run import Run


@rules.register("incremental")
class Incremental(Rule):
    """Movements accumulate, and every `n` steps the weights move by their sum; in between they stand still.

    It is movements that accumulate, not gradients: under SGD the sum is one step on the summed loss of the n batches
    (all their gradients are taken at the same weights), under Adam each batch still updates the moments. They are
    accumulated as pulls, scalings and masks left them, so that nothing moves later what was not allowed to move then.
    What is pending at the end of the run is applied, except to tensors that are held by then. Costs one more copy of
    what moves. `Incremental(1)` changes no bit.
    """

    kind = Kind.WAIT
    looks_back = True
    closing = 1

    def __init__(self, n: int):
        if n < 1:
            raise BadInput(f"incremental needs a number of steps of at least 1, not {n}.")
        self.n = n
        self._pending: dict[str, Tensor] = {}
        self._held: frozenset[str] = frozenset()

    def update(self, run: Run, move: Move) -> None:
        assert move.before is not None
        pending = self._pending.get(move.param.path)
        if (run.step + 1) % self.n:
            moved = move.after - move.before
            self._pending[move.param.path] = moved if pending is None else pending.add_(moved)
            move.after.copy_(move.before)
        elif pending is not None:
            move.after.add_(self._pending.pop(move.param.path))

    def after(self, run: Run) -> None:
        self._held = run.held

    def state(self) -> State:
        return {"pending": dict(self._pending), "held": sorted(self._held)}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        self._pending = {n: t.to(run.tensors[n].device) for n, t in state["pending"].items()}
        self._held = frozenset(state["held"])

    @torch.no_grad()
    def end(self, run: Run) -> None:
        for name in self._pending.keys() - self._held:
            local(run.tensors[name]).add_(self._pending[name])
        self._pending = {}
