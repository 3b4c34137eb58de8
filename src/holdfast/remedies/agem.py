"""A-GEM: no step may raise the loss on a few old rows, as far as their gradient tells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from holdfast._errors import BadInput, Unsupported
from holdfast.data.rows import Row
from holdfast.objective import items, loss_of
from holdfast.params.weights import local
from holdfast.remedies.weighing import batched
from holdfast.rule import Move, Rule, State, Window, rules
from holdfast.run import Run


@rules.register("agem")
class AGEM(Rule):
    """Takes out of each step what raises the loss on `rows` old rows, drawn anew from `source` for each step.

    With r the gradient of their loss at the weights before the step and m the movement of the step, over all weights
    together: where m·r > 0, m becomes m - (m·r / r·r) r; other steps stay as they are. Under plain SGD that is A-GEM's
    projection of the gradient (Chaudhry et al., 2019, arXiv:1812.00420). It is the movement that is projected, since
    under Adam a projected gradient still moves against r: momentum, scaling and weight decay come after it. What other
    rules or flags keep from moving is no part of m or r and does not move here either. Costs a gradient of `rows` rows
    each step, and two more copies of what trains. The old rows are not learnt from; `replay` does that.
    """

    looks_back, corrects = True, True

    def __init__(self, source: Sequence[Row], rows: int = 8, pad_id: int = 0):
        if not source or rows < 1:
            raise BadInput("agem: give it a source that has rows, and at least one row for each step.")
        self.source, self.rows, self.pad_id = source, rows, pad_id
        self.taken = 0.0
        self._old: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._order: list[int] = []

    def begin(self, run: Run) -> None:
        if any(isinstance(t, DTensor) for t in run.tensors.values()):
            raise Unsupported("agem compares a step with a gradient of whole tensors; use plain data parallel.")

    def batch(self, run: Run, window: Window) -> Window:
        index, processes = run.process
        drawn = self._draw(run, self.rows * processes)[index * self.rows : (index + 1) * self.rows]
        device = next(iter(run.tensors.values())).device
        batch = batched([self.source[i] for i in drawn], self.rows, self.pad_id, device)[0]
        free = {n: t for n, t in run.tensors.items() if t.requires_grad and n not in run.held}
        with run.aside(), torch.enable_grad():
            loss, _ = loss_of(run.model, batch, max(items(run.model, batch), 1), 1)
            with run.uncast():
                gradients = torch.autograd.grad(loss, list(free.values()), allow_unused=True) if free else ()
        self._old = {n: run.agreed(g.float()) for n, g in zip(free, gradients, strict=True) if g is not None}
        return window

    def update(self, run: Run, move: Move) -> None:
        assert move.before is not None
        self._before[move.param.path] = move.before

    @torch.no_grad()
    def after(self, run: Run) -> None:
        """Once all weights have moved, and all other rules have had their say."""
        before, self._before = self._before, {}
        old, self._old = self._old, {}
        moves = {n: local(run.tensors[n]).sub(before[n]).float() for n in before.keys() & old.keys()}
        for name, m in moves.items():
            old[name] = old[name] * (m != 0)
        along, size = (sum(float((a[n] * old[n]).sum(dtype=torch.float64)) for n in moves) for a in (moves, old))
        self.taken = max(along, 0.0) / size if size else 0.0
        if self.taken:
            for name in moves:
                local(run.tensors[name]).sub_(old[name].to(run.tensors[name].dtype), alpha=self.taken)

    def state(self) -> State:
        return {"order": list(self._order)}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        self._order, self._old, self._before = list(state["order"]), {}, {}

    def end(self, run: Run) -> None:
        self._old, self._before = {}, {}

    def _draw(self, run: Run, count: int) -> list[int]:
        """Without replacement until all were seen."""
        while len(self._order) < count:
            self._order += torch.randperm(len(self.source), generator=run.generator(self)).tolist()
        drawn, self._order = self._order[:count], self._order[count:]
        return drawn
