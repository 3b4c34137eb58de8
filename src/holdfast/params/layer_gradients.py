"""The gradient of each example for the parameters of one layer, from its input and the gradient of its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

Factor = Callable[[Tensor], Tensor]
"""What is added up is g * factor(g) for each gradient g: `itself` gives squares, `torch.sign` absolute values."""


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

    def add(self, total: Tensor, factor: Factor) -> None:
        """Add gradients times factor to total [rows, columns] without a dense table: by (example, row) that occurs."""
        first = len(total) * torch.arange(len(self.tokens), device=total.device)[:, None]
        keys, group = torch.unique(first + self.tokens, return_inverse=True)
        sums = total.new_zeros(len(keys), total.shape[1]).index_add_(0, group.flatten(), self.values.flatten(0, 1))
        total.index_add_(0, keys % len(total), sums.mul_(factor(sums)))


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
    """The rule of a layer: its own `use`, by its type, or by structure for the many norms; None where there is none.

    A rule takes the call, the parameter's name and the gradient of the output [B, T, features], and gives the use.
    """
    own: Rule | None = getattr(type(module), "use", None)
    if own is not None:
        return own
    weight = getattr(module, "weight", None)
    if type(module).__name__.endswith("Norm") and isinstance(weight, nn.Parameter) and weight.ndim == 1:
        return _norm
    return next((rule for kind, rule in RULES.items() if isinstance(module, kind)), None)
