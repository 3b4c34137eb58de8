"""SI: weights are held back by how much each lowered the loss of earlier tasks while those were learnt."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.params.fisher import normalised
from holdfast.params.weights import local
from holdfast.remedies.anchor import Anchor, Earlier, on_device
from holdfast.remedies.carried import Importance
from holdfast.remedies.coefficients import Layers
from holdfast.rule import Move, State, rules
from holdfast.run import Run


@rules.register("si")
class SI(Anchor):
    """As `ewc`, with an importance that costs no pass: the path integral of the loss, collected while training.

    Each step adds -g (w after - w before) to a weight, g being the gradient of the step (clipped, with other rules'
    penalties; pulls are no part of it) and the movement what all rules left of it. At the end of a task a weight's own
    importance is max(sum, 0) / (way² + damping * mean way²), normalised to mean 1, way being that from the start of the
    run; it is added to `importance`, that of earlier tasks, times `decay`, and written to `folder`. So in the first of
    several tasks nothing is held back. Steps in which the rule is not asked (strength 0, or outside of `every` and
    `during`) are no part of the sum. Zenke et al. (2017), arXiv:1703.04200; there the damping is an absolute number,
    here it is relative, so that it means the same at any learning rate.

    On LoRA the gradient of the product is not at hand, but what its rows gained through B and its columns through A is:
    each element gets the share of its row times that of its column.
    """

    looks_back = True

    def __init__(
        self,
        strength: float = 100.0,
        importance: Earlier = None,
        decay: float = 1.0,
        damping: float = 0.1,
        layers: Layers = None,
        folder: str | Path | None = None,
    ):
        super().__init__(strength, importance, decay, layers, folder)
        if damping <= 0:
            raise BadInput(f"si: damping keeps weights that did not move from counting most; above 0, not {damping}.")
        self.damping = damping
        self.path: dict[str, Tensor] = {}
        self._step: dict[str, tuple[Tensor, Tensor]] = {}

    def measured(self, run: Run) -> Importance | None:
        return None

    def update(self, run: Run, move: Move) -> None:
        gradient = run.tensors[move.param.path].grad
        assert move.before is not None and gradient is not None
        self._step[move.param.path] = gradient.detach().clone(), move.before  # loops may zero it before `after`
        super().update(run, move)

    @torch.no_grad()
    def after(self, run: Run) -> None:
        for name, (gradient, before) in self._step.items():
            gained = local(run.tensors[name]).sub(before).mul_(gradient).neg_().float()
            self.path[name] = self.path[name].add_(gained) if name in self.path else gained
        self._step = {}

    def state(self) -> State:
        return {"path": dict(self.path)}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        super().restore(run, prepared, state)
        self.path, self._step = on_device(state["path"], run), {}

    def end(self, run: Run) -> None:
        super().end(run)
        self.path, self._step = {}, {}

    @torch.no_grad()
    def final(self, run: Run) -> Importance:
        """Earlier importance, faded, and this run's own; `run.end` has it written to `folder`."""
        gained, ways = self._gained(run), self._ways(run)
        mean = sum(float(w.sum()) for w in ways.values()) / sum(w.numel() for w in ways.values())
        if not mean or not any(bool(g.any()) for g in gained.values()):
            return self.importance
        own = normalised({n: gained[n] / (ways[n] + self.damping * mean) for n in ways})
        return self.summed(self.importance, own)

    def _gained(self, run: Run) -> Importance:
        """By how many nats each weight, or element of a product, lowered the loss; never less than 0."""
        found: Importance = {}
        for name, param in run.params.items():
            path = self.path.get(name, torch.zeros_like(local(run.tensors[name])))
            if param.lora is None:
                found[name] = path.clamp(min=0)
            elif param.lora.side == "B":
                factor_a = self.path.get(param.lora.partner)
                columns = path.new_zeros(_width(run, param.lora.partner)) if factor_a is None else factor_a.sum(0)
                product = _shared(path.sum(1).clamp(min=0), columns.clamp(min=0))
                found[param.lora.target] = product.T if param.lora.transposed else product
        return found

    def _ways(self, run: Run) -> Importance:
        """The square of the way of each weight from the start of the run."""
        assert self.base is not None
        now, start, found = {n: local(t) for n, t in run.tensors.items()}, self.base.values, Importance()
        for name, param in run.params.items():
            if param.lora is None:
                found[name] = (now[name] - start[name]).square_()
            elif param.lora.side == "B":
                other = local(run.model.get_parameter(param.lora.partner))
                way = now[name] @ other - start[name] @ start.get(param.lora.partner, other)
                square = way.mul_(param.lora.scaling).square_()
                found[param.lora.target] = square.T if param.lora.transposed else square
        return found


def _width(run: Run, path: str) -> int:
    return run.model.get_parameter(path).shape[1]


def _shared(rows: Tensor, columns: Tensor) -> Tensor:
    """A matrix with a sum of rows' and columns' sums, each element by the shares of its row and its column."""
    total = rows.sum() + columns.sum()
    even = [v / v.sum() if bool(v.any()) else torch.full_like(v, 1 / len(v)) for v in (rows, columns)]
    return torch.outer(even[0], even[1]).mul_(total)
