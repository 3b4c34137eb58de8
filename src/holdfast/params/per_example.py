"""Sums of functions of per-example gradients, formed layer by layer while autograd walks back through a model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.params.layer_gradients import Call, Factor, Rule, Scatter, Use, rule_of

Batch = Mapping[str, Tensor]


def itself(gradient: Tensor) -> Tensor:
    """The factor that squares."""
    return gradient


class Sums:
    """Sums over examples of g * factor(g), g being an example's gradient of each of the chosen parameters.

    `objective` maps a batch to what is differentiated, one value for each example [B]. The model must be in evaluation
    mode with no parameter requiring a gradient. `looped` holds the parameters that no rule covers.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: set[nn.Parameter],
        objective: Callable[[Batch], Tensor],
        factor: Factor,
        chunk_bytes: int,
    ):
        self.objective, self.factor, self.chunk, self._expand = objective, factor, chunk_bytes // 4, True
        self.sums = {p: torch.zeros(p.shape, dtype=torch.float32, device=p.device) for p in parameters}
        rules = [(m, rule_of(m)) for m in model.modules() if not parameters.isdisjoint(m.parameters(recurse=False))]
        self._layers = [(m, rule) for m, rule in rules if rule]
        self.looped = parameters - {p for m, _ in self._layers for p in m.parameters(recurse=False)}

    def add(self, batch: Batch) -> None:
        """Add a batch: layer by layer, and in a loop over its examples what cannot be had that way."""
        self._walk(batch)
        looped = list(self.looped | self._missed)
        for p in looped:
            p.requires_grad_(True)
        for row in range(self._size if looped else 0):
            objective = self.objective({k: v[row : row + 1] for k, v in batch.items()}).sum()
            if not objective.requires_grad:
                continue
            for p, grad in zip(looped, torch.autograd.grad(objective, looped, allow_unused=True), strict=True):
                if grad is not None:
                    grad = grad.float()
                    self.sums[p].addcmul_(grad, self.factor(grad))
        for p in looped:
            p.requires_grad_(False)

    def check(self, batch: Batch) -> None:
        """Compare each rule with autograd on two short rows of a batch; what disagrees is looped from then on.

        Only the first of the two is differentiated, so that the batch's gradient is that of one example; and squares
        are compared, whatever is added up later, because the tolerance is one for squares.
        """
        factor, self.factor = self.factor, itself
        errors: dict[nn.Parameter, tuple[float, float]] = {}

        def compare(p: nn.Parameter) -> None:
            self._settle(p)
            assert p.grad is not None
            truth, p.grad = p.grad.float().square_(), None
            largest = float(truth.max())
            errors[p] = float(truth.sub_(self.sums[p]).abs_().max()), largest

        grads = {p: p.grad for p in self.sums.keys() - self.looped}
        handles = []
        try:
            for p in grads:
                p.requires_grad_(True).grad = None
                handles.append(p.register_post_accumulate_grad_hook(compare))  # type: ignore[no-untyped-call]
            try:
                self._walk(_probe(batch), examples=1)
            except RuntimeError:  # a model that repeats such outputs itself
                self._expand = False
                self._walk(_probe(batch), examples=1)
        finally:
            self.factor = factor
            for handle in handles:
                handle.remove()
            for p, grad in grads.items():
                p.requires_grad_(False).grad = grad
        self.looped |= self._missed | _disagreeing(errors)
        for total in self.sums.values():
            total.zero_()

    def _walk(self, batch: Batch, examples: int | None = None) -> None:
        """Add what the rules give for a batch, or for the first few examples of it.

        Leaves in `_missed` the parameters whose examples the rules cannot tell apart.
        """
        self._size, self._flat = len(batch["input_ids"]), frozenset(v.numel() for v in batch.values())
        self._uses: dict[nn.Parameter, list[Use]] = defaultdict(list)
        self._waiting: Counter[nn.Parameter] = Counter()
        self._missed: set[nn.Parameter] = set()
        handles = [m.register_forward_hook(partial(self._watch, rule), with_kwargs=True) for m, rule in self._layers]
        try:
            objective = self.objective(batch)[:examples].sum()
            if objective.requires_grad:
                torch.autograd.backward(objective)
        finally:
            for handle in handles:
                handle.remove()
        for p in list(self._uses):
            self._settle(p)

    def _watch(self, rule: Rule, module: nn.Module, args: Any, kwargs: Any, output: object) -> Tensor | None:
        """Forward hook: let the output carry a gradient for each example, and wait for it."""
        owned = {n: p for n, p in module.named_parameters(recurse=False) if p in self.sums and p not in self.looped}
        if not owned or not isinstance(output, Tensor) or not torch.is_grad_enabled():
            return None
        if self._expand and output.ndim > 2 and len(output) == 1:  # positions: broadcast later, gradients would add up
            output = output.expand(self._size, *output.shape[1:])
        if not output.requires_grad:  # where the graph begins; a copy, since the model may change it in place
            output = output.requires_grad_().clone()
        self._waiting.update(owned.values())
        calls = [Call(module, args, kwargs, self._size, self._flat)]
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda grad: self._arrived(rule, calls.pop(), owned, grad)  # popped, so that the input is freed early
        )
        return output

    def _arrived(self, rule: Rule, call: Call, owned: Mapping[str, nn.Parameter], grad: Tensor) -> None:
        rows = call.by_example(grad)
        for name, p in owned.items():
            use = None if rows is None else rule(call, name, rows)
            if use is None:
                self._missed.add(p)
            else:
                self._uses[p].append(use)
            self._waiting[p] -= 1
            if not self._waiting[p]:
                self._settle(p)

    def _settle(self, p: nn.Parameter) -> None:
        """Add up a parameter's uses, take each example times its factor, sum over the examples, and drop them."""
        uses, total = self._uses.pop(p, []), self.sums[p]
        if not uses or p in self._missed:
            return
        tables = [use for use in uses if isinstance(use, Scatter)]
        if len(tables) == len(uses):
            tokens, values = torch.cat([t.tokens for t in tables], 1), torch.cat([t.values for t in tables], 1)
            return Scatter(tokens, values).add(total, self.factor)
        few = min(self._size, max(1, self.chunk // total.numel()))
        step = min(len(total), max(1, self.chunk * len(total) // (few * total.numel())))
        room = total.new_empty(few, step, *total.shape[1:])
        for first in range(0, self._size, few):
            for row in range(0, len(total), step):
                part = total[row : row + step]
                piece = room[: self._size - first, : len(part)]
                for use in uses:
                    use.write(piece, slice(first, first + few), slice(row, row + step), fresh=use is uses[0])
                for example in piece:
                    part.addcmul_(example, self.factor(example))


def _probe(batch: Batch) -> dict[str, Tensor]:
    """Two short rows made of a batch's first tokens, without padding, and with a loss for every token."""
    short = {k: v.flatten()[torch.arange(10, device=v.device) % v.numel()].view(2, 5) for k, v in batch.items()}
    short |= {k: torch.ones_like(v) for k, v in short.items() if k.endswith("attention_mask") or k == "weights"}
    return short | {k: v.clamp(min=0) for k, v in short.items() if k == "labels"}


def _disagreeing(errors: Mapping[nn.Parameter, tuple[float, float]]) -> set[nn.Parameter]:
    """The parameters whose largest error is more than rounding beside their largest value.

    Values that are zero but for rounding (a key's bias under softmax) are measured against the largest of all.
    """
    floor = 1e-6 * max((largest for _, largest in errors.values()), default=0.0)
    return {p for p, (e, largest) in errors.items() if not e <= torch.finfo(p.dtype).eps ** 0.5 * max(largest, floor)}
