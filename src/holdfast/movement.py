"""What may move in one optimiser step, and how far: whole tensors are held, the movement of the others is edited."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from holdfast.params.weights import Values, copied, local
from holdfast.rule import Move, Rule

if TYPE_CHECKING:
    from holdfast.run import Run

logger = logging.getLogger(__name__)


class Movement:
    """Hangs on an optimiser: before its step what is held loses its gradient, after it the rules are asked to edit."""

    def __init__(self, run: Run, optimizer: Optimizer, tensors: Mapping[str, nn.Parameter], *, shared: bool):
        self._run, self._optimizer, self._tensors, self._shared = run, optimizer, tensors, shared
        self._flags = {n: p.requires_grad for n, p in tensors.items()}
        self._before: Values = {}
        self._handles: list[Any] = []
        self.held: frozenset[str] = frozenset()

    def hang(self, asked: Callable[[], Sequence[Rule]], check: Callable[[], None]) -> None:
        """Ask the rules that `asked` gives at each step, after `check` let it pass."""

        def before(*_: Any) -> None:
            check()
            self._remember(asked())

        def after(*_: Any) -> None:
            self._edit(asked())

        self._handles = [self._optimizer.register_step_pre_hook(before), self._optimizer.register_step_post_hook(after)]

    def take_off(self) -> None:
        """Leave optimiser and parameters as they were found."""
        for handle in self._handles:
            handle.remove()
        self.hold(frozenset())
        for name, flag in self._flags.items():
            self._tensors[name].requires_grad_(flag)
        self._handles, self._before = [], {}

    def hold(self, held: frozenset[str]) -> None:
        """Make these whole tensors unable to move in the step to come, and release the others.

        Data-parallel reducers count on the gradients that were there when they were built: in a `shared` run flags
        stay as they are, and only the gradients go.
        """
        if held == self.held:
            return
        for name in held ^ self.held:
            tensor = self._tensors[name]
            if not self._shared:
                tensor.requires_grad_(self._flags[name] and name not in held)
            tensor.grad = None
            why = "does not move: a rule holds it" if name in held else "may move again"
            logger.debug("after step %d, %s %s", self._run.step, name, why)
        self.held = held

    def release(self) -> None:
        """Drop the gradients of what is held, so that clipping does not count them and no optimiser uses them."""
        for name in self.held:
            self._tensors[name].grad = None

    def _remember(self, asked: Sequence[Rule]) -> None:
        self.release()
        looking = [r for r in asked if r.looks_back]
        moving = {n: p for n, p in self._tensors.items() if p.grad is not None}
        self._before = copied({n: p for n, p in moving.items() if any(r.wants(self._run.params[n]) for r in looking)})

    @torch.no_grad()
    def _edit(self, asked: Sequence[Rule]) -> None:
        if asked:
            ordered = sorted(asked, key=lambda r: r.kind)
            rates = {id(p): float(group["lr"]) for group in self._optimizer.param_groups for p in group["params"]}
            with self._run.uncast():
                for name, tensor in self._tensors.items():
                    if tensor.grad is not None and id(tensor) in rates:
                        self._ask(ordered, name, rates[id(tensor)])
        self._before = {}
        torch.clear_autocast_cache()

    def _ask(self, ordered: Sequence[Rule], name: str, rate: float) -> None:
        param = self._run.params[name]
        partner = None if param.lora is None else local(self._run.model.get_parameter(param.lora.partner))
        move = Move(param, local(self._tensors[name]), self._before.get(name), partner, rate)
        for rule in ordered:
            if rule.wants(param):
                rule.update(self._run, move)
