"""Cyclic: one block of layers moves at a time, and optimiser memory is that of one block."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from holdfast._errors import BadInput, UnknownName
from holdfast.params.depth import depth
from holdfast.params.inventory import Param
from holdfast.rule import Rule, rules
from holdfast.run import Run
from holdfast.states import seeded

Order = Literal["random", "up", "down"]


@rules.register("cyclic")
class Cyclic(Rule):
    """For `steps` steps only one block moves, then the next: embedding, each `layers` blocks, and what stands above.

    What does not move has no gradient, and the optimiser forgets all about it, so that gradients and optimiser state
    together never weigh more than one block's. `order` is up, down, or random: every cycle then draws its order anew
    from the run's seed. Which block moves follows from the number of completed steps alone.
    Block coordinate descent as in BAdam, Luo et al. (2024), arXiv:2404.02827.
    """

    def __init__(self, steps: int = 50, layers: int = 1, order: Order = "random"):
        if steps < 1 or layers < 1:
            raise BadInput(f"cyclic needs steps >= 1 and layers >= 1, not steps={steps} and layers={layers}.")
        if order not in get_args(Order):
            raise UnknownName("order", order, get_args(Order))
        self.steps, self.layers, self.order = steps, layers, order
        self.blocks: list[frozenset[str]] = []
        self._swept = -1

    def begin(self, run: Run) -> None:
        parts: dict[int, set[str]] = {}
        for name, param in run.params.items():
            parts.setdefault(self._place(param), set()).add(name)
        self.blocks = [frozenset(parts[place]) for place in sorted(parts)]

    def restore(self, run: Run, prepared: object, state: object) -> None:
        self.begin(run)

    def active(self, run: Run) -> frozenset[str]:
        """Paths of the block that moves in the step to come."""
        cycle, turn = divmod(run.step // self.steps, len(self.blocks))
        if self.order == "random":
            turn = int(torch.randperm(len(self.blocks), generator=seeded(run.seed, f"cyclic/{cycle}"))[turn])
        return self.blocks[-1 - turn if self.order == "down" else turn]

    def holds(self, run: Run) -> frozenset[str]:
        return frozenset(run.params.keys() - self.active(run))

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        if self._swept != run.step:  # asked first once it is settled what is held, and before any state is made
            self._swept = run.step
            for name in run.held - self.active(run):
                run.optimizer.state.pop(run.tensors[name], None)
        return learning_rate

    def _place(self, param: Param) -> int:
        """Embedding, groups of blocks, and what stands above, from the bottom up."""
        if param.layer is None:
            return depth(param)
        return 1 + param.layer // self.layers
