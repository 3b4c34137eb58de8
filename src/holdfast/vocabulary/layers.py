"""Embedding and head with new rows: a small parameter beside a matrix, looked up and multiplied apart."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

from holdfast._errors import BadInput
from holdfast.params.layer_gradients import Call, Outer, Scatter, Use

ROWS = "new_rows"
"""The parameter's name below the embedding, and below a head that is not tied to it."""


class Extended:
    """Before the class of an embedding or a head: token ids from `boundary` on have rows of their own.

    `count` of them, whatever stands at those places of the matrix (models pad it beyond their tokens). The matrix
    keeps its name, its shape and its values.
    """

    boundary: int
    count: int
    weight: nn.Parameter
    new_rows: nn.Parameter
    silent = False
    adapter_layer_names = (ROWS,)

    @property
    def width(self) -> int:
        """How many ids there are: those of the matrix, and as many more as the new ones reach beyond it."""
        return max(len(self.weight), self.boundary + self.count)

    def is_new(self, ids: Tensor) -> Tensor:
        """Which of the ids have a new row."""
        return (ids >= self.boundary) & (ids < self.boundary + self.count)


class ExtendedEmbedding(Extended):
    """Looks up a new id in the new rows and any other in the matrix; only the rows of the batch are touched."""

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [..., width] of ids [...], scaled as the class below scales them."""
        if self.silent:
            self._refuse(ids)
            return cast(Tensor, super().forward(ids))  # type: ignore[misc]
        new = self.is_new(ids)
        old: Tensor = super().forward(ids.masked_fill(new, 0))  # type: ignore[misc]
        rows = embedding((ids - self.boundary).clamp(0, self.count - 1), self.new_rows).to(old.dtype)
        return torch.where(new[..., None], rows * self._scale(rows), old)

    def _refuse(self, ids: Tensor) -> None:
        if (new := self.is_new(ids)).any():
            raise BadInput(
                f"A text that is measured on the base as it was holds the new token with the id {int(ids[new][0])}, "
                "which the base cannot read. Measure such texts on what was trained (`holdfast sid evaluate`)."
            )

    def _scale(self, like: Tensor) -> Tensor | float:
        """What vectors are multiplied by in some models (Gemma)."""
        scale = getattr(self, "embed_scale", 1.0)
        return scale.to(like.dtype) if isinstance(scale, Tensor) else float(scale)

    @staticmethod
    def use(call: Call, name: str, grad: Tensor) -> Use | None:
        """The gradient of each example for the matrix or the new rows, where that of the output is [B, T, width]."""
        self = cast(ExtendedEmbedding, call.module)
        ids = (*call.args, *call.kwargs.values())[0].expand(len(grad), -1)
        new, values = self.is_new(ids), grad * self._scale(grad)
        if name == ROWS:
            return Scatter((ids - self.boundary).clamp(0, self.count - 1), values * new[..., None])
        still = new | (ids == (-1 if (padding := getattr(self, "padding_idx", None)) is None else padding))
        return Scatter(ids.masked_fill(new, 0), values.masked_fill(still[..., None], 0))


class ExtendedHead(Extended):
    """Multiplies the matrix and the new rows apart, into one tensor of logits; tied, the rows are the embedding's."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., ids] of hidden states [..., width]."""
        if self.silent:
            return cast(Tensor, super().forward(hidden))  # type: ignore[misc]
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        parts = (part.to(dtype) for part in (hidden, self.weight, self.new_rows))
        return cast(Tensor, _Logits.apply(*parts, self.boundary))  # type: ignore[no-untyped-call]

    @staticmethod
    def use(call: Call, name: str, grad: Tensor) -> Use | None:
        """The gradient of each example for the matrix or the new rows, where that of the logits is [B, T, ids]."""
        self, inputs = cast(ExtendedHead, call.module), call.by_example((*call.args, *call.kwargs.values())[0])
        new = slice(self.boundary, self.boundary + self.count)
        if inputs is None:
            return None
        if name == ROWS:
            return Outer(grad[..., new], inputs)
        old = grad.clone()
        old[..., new] = 0
        return Outer(old[..., : len(self.weight)], inputs)


class _Logits(torch.autograd.Function):
    """logits = hidden [old; new]^T without joining the matrices, nor copying what they give.

    The columns of the matrix come out as `linear` gives them, to the last bit. A matrix that does not train costs no
    gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, matrix: Tensor, rows: Tensor, boundary: int) -> Tensor:
        ctx.save_for_backward(hidden, matrix, rows)
        ctx.boundary = boundary
        flat = hidden.reshape(-1, hidden.shape[-1])
        width = max(len(matrix), boundary + len(rows))
        logits = flat.new_empty(len(flat), width)
        torch.mm(flat, matrix.t(), out=logits[:, : len(matrix)])
        torch.mm(flat, rows.t(), out=logits[:, boundary : boundary + len(rows)])
        return logits.view(*hidden.shape[:-1], width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, matrix, rows = ctx.saved_tensors
        flat, grads = hidden.reshape(-1, hidden.shape[-1]), grad.reshape(-1, grad.shape[-1])
        first, last = ctx.boundary, ctx.boundary + len(rows)
        regions = [(0, min(first, len(matrix))), (last, len(matrix))]
        old = [(grads[:, a:b], a, b) for a, b in regions if a < b]
        new = grads[:, first:last]
        into, whole = None, None
        if ctx.needs_input_grad[0]:
            into = new @ rows
            for part, a, b in old:
                into.addmm_(part, matrix[a:b])
            into = into.view_as(hidden)
        if ctx.needs_input_grad[1]:
            whole = torch.zeros_like(matrix)
            for part, a, b in old:
                torch.mm(part.t(), flat, out=whole[a:b])
        return into, whole, new.t() @ flat if ctx.needs_input_grad[2] else None, None
