"""Squares of per-example gradients, formed layer by layer while autograd walks back through a model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

Batch = Mapping[str, Tensor]


class Use(Protocol):
    """What one use of a parameter gives: a gradient for each example, written out a piece at a time."""

    def write(self, piece: Tensor, examples: slice, rows: slice, fresh: bool) -> None:
        """Add the gradients of some examples and rows to piece [examples, rows, ...], or replace it where fresh."""


@dataclass(frozen=True)
class Outer:
    """A matrix: left^T right for each example; left [B, T, rows], right [B, T, columns]."""

    left: Tensor
    right: Tensor

    def write(self, piece: Tensor, examples: slice, rows: slice, fresh: bool) -> None:
        piece.baddbmm_(self.left[examples, :, rows].mT, self.right[examples], beta=0 if fresh else 1)


@dataclass(frozen=True)
class Vector:
    """A vector, ready made: [B, rows]."""

    values: Tensor

    def write(self, piece: Tensor, examples: slice, rows: slice, fresh: bool) -> None:
        values = self.values[examples, rows]
        piece.copy_(values) if fresh else piece.add_(values)


@dataclass(frozen=True)
class Scatter:
    """A table of which each token touches one row: tokens [B, T], values [B, T, columns]."""

    tokens: Tensor
    values: Tensor

    def write(self, piece: Tensor, examples: slice, rows: slice, fresh: bool) -> None:
        if fresh:
            piece.zero_()
        tokens = self.tokens[examples]
        inside = (tokens >= rows.start) & (tokens < rows.stop)
        where = (inside.nonzero()[:, 0], tokens[inside] - rows.start)
        piece.index_put_(where, self.values[examples][inside], accumulate=True)

    def add_squares(self, total: Tensor) -> None:
        """Add the squares to total [rows, columns] without a dense table: by (example, row) that occurs."""
        first = len(total) * torch.arange(len(self.tokens), device=total.device)[:, None]
        keys, group = torch.unique(first + self.tokens, return_inverse=True)
        sums = total.new_zeros(len(keys), total.shape[1]).index_add_(0, group.flatten(), self.values.flatten(0, 1))
        total.index_add_(0, keys % len(total), sums.square_())


@dataclass(frozen=True)
class Call:
    """One call of a layer, on a batch of `size` examples; `flat` says how long a batch without rows would be."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int
    flat: frozenset[int]

    def again(self, **values: Tensor) -> Tensor:
        """The layer's output for the same input with other parameters."""
        with torch.no_grad():
            output: Tensor = functional_call(self.module, values, self.args, self.kwargs)
        return output

    def by_example(self, tensor: Tensor) -> Tensor | None:
        """The tensor in float32 as [examples, tokens, features]; None where its shape does not tell examples apart."""
        if self.size == 1 or (tensor.ndim == 2 and len(tensor) in self.flat):
            return tensor.float().reshape(self.size, -1, tensor.shape[-1])
        if tensor.ndim > 2 and len(tensor) in (1, self.size):
            return tensor.float().expand(self.size, *tensor.shape[1:]).flatten(1, -2)
        return None


def _linear(call: Call, name: str, grad: Tensor) -> Use | None:
    if name == "bias":
        return Vector(grad.sum(1))
    inputs = call.by_example((*call.args, *call.kwargs.values())[0])
    return None if inputs is None else Outer(grad, inputs)


def _conv1d(call: Call, name: str, grad: Tensor) -> Use | None:
    use = _linear(call, name, grad)
    return Outer(use.right, use.left) if isinstance(use, Outer) else use


def _embedding(call: Call, name: str, grad: Tensor) -> Use | None:
    """Which rows are read, and how they are scaled, is asked of the layer itself (OPT adds 2, Gemma scales)."""
    weight, padding = call.module.get_parameter("weight"), getattr(call.module, "padding_idx", None)
    rows = torch.arange(len(weight), dtype=torch.float32, device=weight.device)[:, None]
    tokens = call.by_example(call.again(weight=rows) / call.again(weight=torch.ones_like(rows)))
    scale = call.by_example(call.again(weight=weight.new_ones(len(weight), 1)))
    if tokens is None or scale is None:
        return None
    tokens = tokens.round().long()
    values = (grad * scale).masked_fill_(tokens == (-1 if padding is None else padding), 0)
    return Scatter(tokens[..., 0], values)


def _norm(call: Call, name: str, grad: Tensor) -> Use | None:
    """What the weight multiplies is asked of the layer itself, which is affine in it (Gemma's 1 + weight as well)."""
    zeros = {n: torch.zeros_like(p) for n, p in call.module.named_parameters(recurse=False)}
    if grad.shape[-1] != len(zeros[name]):
        return None
    if name == "bias":
        return Vector(grad.sum(1))
    ones = zeros | {"weight": torch.ones_like(zeros["weight"])}
    factor = call.by_example(call.again(**ones) - call.again(**zeros))
    return None if factor is None else Vector((factor * grad).sum(1))


Rule = Callable[[Call, str, Tensor], Use | None]
RULES: dict[type[nn.Module], Rule] = {nn.Linear: _linear, Conv1D: _conv1d, nn.Embedding: _embedding}


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of a layer, by its type, or by structure for the many norms; None where there is none.

    A rule takes the call, the parameter's name and the gradient of the output [B, T, features], and gives the use.
    """
    weight = getattr(module, "weight", None)
    if type(module).__name__.endswith("Norm") and isinstance(weight, nn.Parameter) and weight.ndim == 1:
        return _norm
    return next((rule for kind, rule in RULES.items() if isinstance(module, kind)), None)


class Squares:
    """Sums over examples of squared gradients of the chosen parameters.

    `objective` maps a batch to the sum over its examples of what is differentiated. The model must be in evaluation
    mode with no parameter requiring a gradient. `looped` holds the parameters that no rule covers.
    """

    def __init__(
        self, model: nn.Module, parameters: set[nn.Parameter], objective: Callable[[Batch], Tensor], chunk_bytes: int
    ):
        self.objective, self.chunk, self._expand = objective, chunk_bytes // 4, True
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
            objective = self.objective({k: v[row : row + 1] for k, v in batch.items()})
            if not objective.requires_grad:
                continue
            for p, grad in zip(looped, torch.autograd.grad(objective, looped, allow_unused=True), strict=True):
                if grad is not None:
                    self.sums[p].add_(grad.float().square_())
        for p in looped:
            p.requires_grad_(False)

    def check(self, batch: Batch) -> None:
        """Compare each rule with autograd on two short rows of a batch; what disagrees is looped from then on."""
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
                self._walk(_probe(batch))
            except RuntimeError:  # a model that repeats such outputs itself
                self._expand = False
                self._walk(_probe(batch))
        finally:
            for handle in handles:
                handle.remove()
            for p, grad in grads.items():
                p.requires_grad_(False).grad = grad
        self.looped |= self._missed | _disagreeing(errors)
        for total in self.sums.values():
            total.zero_()

    def _walk(self, batch: Batch) -> None:
        """Add what the rules give for a batch, leaving in `_missed` the parameters whose examples they cannot tell."""
        self._size, self._flat = len(batch["input_ids"]), frozenset(v.numel() for v in batch.values())
        self._uses: dict[nn.Parameter, list[Use]] = defaultdict(list)
        self._waiting: Counter[nn.Parameter] = Counter()
        self._missed: set[nn.Parameter] = set()
        handles = [m.register_forward_hook(partial(self._watch, rule), with_kwargs=True) for m, rule in self._layers]
        try:
            objective = self.objective(batch)
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
        """Add up a parameter's uses, square, sum over the examples, and drop them."""
        uses, total = self._uses.pop(p, []), self.sums[p]
        if not uses or p in self._missed:
            return
        tables = [use for use in uses if isinstance(use, Scatter)]
        if len(tables) == len(uses):
            tokens, values = torch.cat([t.tokens for t in tables], 1), torch.cat([t.values for t in tables], 1)
            return Scatter(tokens, values).add_squares(total)
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
                    part.addcmul_(example, example)


def _probe(batch: Batch) -> dict[str, Tensor]:
    """Two short rows made of a batch's first tokens, without padding; only the first has a loss."""
    short = {k: v.flatten()[torch.arange(10, device=v.device) % v.numel()].view(2, 5) for k, v in batch.items()}
    short |= {k: torch.ones_like(v) for k, v in short.items() if k.endswith("attention_mask")}
    return short | {"labels": torch.stack([short["labels"][0].clamp(min=0), torch.full_like(short["labels"][1], -100)])}


def _disagreeing(errors: Mapping[nn.Parameter, tuple[float, float]]) -> set[nn.Parameter]:
    """The parameters whose largest error is more than rounding beside their largest value.

    Values that are zero but for rounding (a key's bias under softmax) are measured against the largest of all.
    """
    floor = 1e-6 * max((largest for _, largest in errors.values()), default=0.0)
    return {p for p, (e, largest) in errors.items() if not e <= torch.finfo(p.dtype).eps ** 0.5 * max(largest, floor)}
