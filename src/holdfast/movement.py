"""What may move in one optimiser step, how fast and how far: tensors are held, rates are set, movements are edited."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.params.inventory import Param
from holdfast.params.weights import Values, copied, local
from holdfast.rule import Move, Rule

if TYPE_CHECKING:
    from holdfast.run import Run

logger = logging.getLogger(__name__)


class Movement:
    """Hangs on an optimiser: before its step what is held loses its gradient and the rules set learning rates; after
    it the rules are asked to edit.

    Where rules want several rates inside one parameter group, the optimiser sees the group split for the length of
    this step, so that no copy is needed and any optimiser will do.
    """

    def __init__(self, run: Run, optimizer: Optimizer, tensors: Mapping[str, nn.Parameter], *, shared: bool):
        self._run, self._optimizer, self._tensors, self._shared = run, optimizer, tensors, shared
        self._flags = {n: p.requires_grad for n, p in tensors.items()}
        self._before: Values = {}
        self._groups: list[tuple[dict[str, Any], dict[str, Any]]] | None = None
        self._rates: dict[int, float] = {}
        self._handles: list[Any] = []
        self.held: frozenset[str] = frozenset()
        self.moved: set[str] = set()
        self.kept: Values = {}
        self._left_out: frozenset[str] = frozenset()

    def hang(self, asked: Callable[[str], Sequence[Rule]], check: Callable[[], None]) -> None:
        """Ask the rules that `asked` gives for a hook at each step, after `check` let it pass."""

        def before(*_: Any) -> None:
            check()
            self._remember(asked("update"))
            self._set_rates(asked("rate"))

        def after(*_: Any) -> None:
            self._join()
            self._edit(asked("update"))

        self._handles = [self._optimizer.register_step_pre_hook(before), self._optimizer.register_step_post_hook(after)]

    def take_off(self) -> None:
        """Leave optimiser and parameters as they were found."""
        for handle in self._handles:
            handle.remove()
        self._join()
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

    def leave_out(self) -> frozenset[str]:
        """Paths of what is held and has never moved; from now on `kept` keeps the value that it first moves from."""
        never = self.held - self.moved
        self._left_out |= never
        return never

    def _remember(self, asked: Sequence[Rule]) -> None:
        self.release()
        looking = [r for r in asked if r.looks_back]
        moving = {n: p for n, p in self._tensors.items() if p.grad is not None}
        first = moving.keys() - self.moved
        self.kept |= copied({n: moving[n] for n in first & self._left_out})
        self.moved |= first
        self._before = copied({n: p for n, p in moving.items() if any(r.wants(self._run.params[n]) for r in looking)})

    def _set_rates(self, asked: Sequence[Rule]) -> None:
        """Give the optimiser, for one step, groups in which each parameter has the learning rate that the rules say."""
        self._join()
        groups = self._optimizer.param_groups
        self._rates = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
        if not asked:
            return
        for name, tensor in self._tensors.items():
            if tensor.grad is not None and id(tensor) in self._rates:
                self._rates[id(tensor)] = self._rate(asked, self._run.params[name], self._rates[id(tensor)])
        split = [list(self._split(group)) for group in groups]
        self._groups = list(zip(groups, [parts[0] for parts in split], strict=True))
        self._optimizer.param_groups = [part for parts in split for part in parts]

    def _rate(self, asked: Sequence[Rule], param: Param, rate: float) -> float:
        for rule in asked:
            if rule.wants(param):
                rate = rule.rate(self._run, param, rate)
        return rate

    def _split(self, group: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One group for each rate, with the options of the whole."""
        parts: dict[float, list[nn.Parameter]] = {} if group["params"] else {float(group["lr"]): []}
        for p in group["params"]:
            parts.setdefault(self._rates[id(p)], []).append(p)
        for rate, params in parts.items():
            lr = torch.full_like(group["lr"], rate) if isinstance(group["lr"], Tensor) else rate
            yield {**group, "params": params, "lr": lr}

    def _join(self) -> None:
        """Whole groups again, with what the optimiser noted in them."""
        if self._groups is not None:
            for group, part in self._groups:
                group.update({k: v for k, v in part.items() if k not in ("params", "lr")})
            self._optimizer.param_groups, self._groups = [group for group, _ in self._groups], None

    @torch.no_grad()
    def _edit(self, asked: Sequence[Rule]) -> None:
        if asked and not self._skipped():
            ordered = sorted(asked, key=lambda r: r.kind)
            with self._run.uncast():
                for name, tensor in self._tensors.items():
                    if tensor.grad is not None and id(tensor) in self._rates:
                        self._ask(ordered, name, self._rates[id(tensor)])
        self._before = {}
        torch.clear_autocast_cache()

    def _skipped(self) -> bool:
        """Whether a fused optimiser left this step out, because a gradient scaler had found an overflow."""
        found = getattr(self._optimizer, "found_inf", None)
        return found is not None and bool(found)

    def _ask(self, ordered: Sequence[Rule], name: str, rate: float) -> None:
        param = self._run.params[name]
        partner = None if param.lora is None else local(self._run.model.get_parameter(param.lora.partner))
        move = Move(param, local(self._tensors[name]), self._before.get(name), partner, rate)
        for rule in ordered:
            if rule.wants(param):
                rule.update(self._run, move)
