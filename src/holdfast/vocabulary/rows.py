"""New rows of a vocabulary: a small parameter of their own, laid over a matrix that stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from holdfast._errors import BadInput, Unsupported
from holdfast.params.heads import unwrapped
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
            return cast(Tensor, super().forward(ids))  # type: ignore[misc]
        new = self.is_new(ids)
        old: Tensor = super().forward(ids.masked_fill(new, 0))  # type: ignore[misc]
        rows = embedding((ids - self.boundary).clamp(0, self.count - 1), self.new_rows).to(old.dtype)
        return torch.where(new[..., None], rows * self._scale(rows), old)

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


def lay(model: PreTrainedModel, boundary: int, inputs: Tensor, outputs: Tensor | None = None) -> None:
    """Lay new rows over the embedding and head of a model, for the ids from `boundary` on; they alone come to train.

    `inputs` [rows, width] are what the new ids are read as. `outputs` are what the head scores them by; where it is
    tied to the embedding it takes the same ones, and `outputs` must be None. Nothing else of the model changes, its
    `requires_grad` flags included; its config counts the new ids. Rows that are there already are replaced.

    Raises Unsupported for a model without such an embedding and head, BadInput for rows of another shape.
    """
    into, head = sides(model)
    _check(model, into, head, inputs, outputs)
    _share(model, into)
    _extend(into, ExtendedEmbedding, boundary, len(inputs))
    into.register_parameter(ROWS, nn.Parameter(_float(inputs)))
    if head is not None:
        _extend(head, ExtendedHead, boundary, len(inputs))
        own = None if outputs is None else nn.Parameter(_float(outputs))
        head.register_parameter(ROWS, cast(Extended, into).new_rows if own is None else own)
    _count(model, cast(Extended, into).width)


def new_rows(model: Any) -> dict[str, nn.Parameter]:
    """The new rows of a model by their paths, in its input embedding and, where it is not tied, in its head."""
    return {path: p for path, p in model.named_parameters() if path.rpartition(".")[2] == ROWS}


def alone(model: Any) -> bool:
    """Whether new rows are all that trains."""
    trained = [path for path, p in model.named_parameters() if p.requires_grad]
    return bool(trained) and set(trained) <= set(new_rows(model))


def embedding_of(model: Any) -> Any:
    """The embedding of a model where new rows lie over it, also below a PEFT wrapper; None where there are none."""
    with suppress(AttributeError, NotImplementedError):
        found = sides(model)[0]
        return found if isinstance(found, ExtendedEmbedding) else None
    return None


def sides(model: Any) -> tuple[Any, Any]:
    """Input embedding and head of a model, also below a PEFT wrapper; None where there is no head."""
    inner: Any = unwrapped(model)
    return inner.get_input_embeddings(), inner.get_output_embeddings()


def is_tied(model: Any) -> bool:
    """Whether the head takes its matrix from the embedding (or there is no head)."""
    into, head = sides(model)
    return head is None or head.weight is into.weight


@contextmanager
def as_before(model: Any) -> Iterator[None]:
    """The model without its new rows for a while: as many logits as before, and no new id can be read."""
    sides = [module for module in model.modules() if isinstance(module, Extended)]
    inner: Any = unwrapped(model)

    def switch(silent: bool) -> None:
        for side in sides:
            side.silent = silent
            _count(inner, len(side.weight) if silent else side.width)

    try:
        switch(True)
        yield
    finally:
        switch(False)


def folded(model: PreTrainedModel, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of a model, by default its own, as those of a plain one: new rows stand in the matrix."""
    told = dict(model.state_dict() if state is None else state)
    joined: dict[int, Tensor] = {}
    modules: list[tuple[str, Any]] = list(model.named_modules(remove_duplicate=False))
    for path, side in modules:
        if isinstance(side, Extended):
            rows, matrix, shared = told.pop(f"{path}.{ROWS}"), told[f"{path}.weight"], id(side.new_rows)
            if shared not in joined:
                joined[shared] = _joined(matrix, rows, side.boundary)
            told[f"{path}.weight"] = joined[shared]
    return told


def _joined(matrix: Tensor, rows: Tensor, boundary: int) -> Tensor:
    """Matrix and new rows as one tensor; rows of the matrix that stand at new ids give way."""
    whole = matrix.new_zeros(max(len(matrix), boundary + len(rows)), matrix.shape[1])
    whole[: len(matrix)] = matrix.detach()
    whole[boundary : boundary + len(rows)] = rows.detach().to(matrix)
    return whole


def fold(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with its new rows in the matrix, as a plain model of transformers; raises BadInput without any."""
    into: Any = embedding_of(model)
    if into is None:
        raise BadInput("This model has no new rows to fold into its matrix.")
    tied, (_, head) = is_tied(model), sides(model)
    for side in [into] if tied else [into, head]:
        matrix = _joined(side.weight, side.new_rows, side.boundary)
        side.weight = nn.Parameter(matrix, requires_grad=side.weight.requires_grad)
    for side in [into] if head is None else [into, head]:
        _plain(side)
    if tied and head is not None:
        head.weight = into.weight
        _say_width(head)
    return model


def _share(model: nn.Module, into: nn.Embedding) -> None:
    """One module wherever one matrix is read: encoder and decoder have modules of their own that share a tensor."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child is not into and isinstance(child, nn.Embedding) and child.weight is into.weight:
                setattr(parent, name, into)


def _count(model: Any, ids: int) -> None:
    """What a model's config, and what parts of it noted of that, say of the number of ids: its losses count by it."""
    model.config.get_text_config().vocab_size = ids
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and hasattr(part, "vocab_size"):
            part.vocab_size = ids


def _extend(module: Any, kind: type[Extended], boundary: int, count: int) -> None:
    if not isinstance(module, Extended):
        below = type(module)
        module.__class__ = type(below.__name__, (kind, below), {"__module__": below.__module__})
    module.boundary, module.count = boundary, count
    _say_width(module)


def _plain(module: Any) -> None:
    module._parameters.pop(ROWS, None)
    for name in ("boundary", "count", "silent"):
        vars(module).pop(name, None)
    module.__class__ = next(kind for kind in type(module).__mro__[1:] if not issubclass(kind, Extended))
    _say_width(module)


def _say_width(module: Any) -> None:
    """How many ids there are, where torch's layers say it."""
    width = module.width if isinstance(module, Extended) else len(module.weight)
    setattr(module, "num_embeddings" if isinstance(module, nn.Embedding) else "out_features", width)


def _float(values: Tensor) -> Tensor:
    """What trains is float32: in half precision a step would be lost in rounding."""
    return values.detach().float().clone()


def _check(model: Any, into: Any, head: Any, inputs: Tensor, outputs: Tensor | None) -> None:
    if not isinstance(into, nn.Embedding) or into.max_norm is not None:
        raise Unsupported(f"The input of a {type(model).__name__} is no plain table of vectors; no rows can be added.")
    if head is not None and type(head).__name__ != "Linear":
        raise Unsupported(f"The head of a {type(model).__name__} is a {type(head).__name__}; no rows can be added.")
    if getattr(head, "bias", None) is not None:
        raise Unsupported(f"The head of a {type(model).__name__} has a bias for each token; new ones would have none.")
    shape = (len(inputs), into.weight.shape[1])
    if inputs.shape != shape or not len(inputs):
        raise BadInput(f"New rows are [tokens, {shape[1]}] for this model, not {list(inputs.shape)}.")
    if is_tied(model) != (outputs is None):
        raise BadInput("A tied head takes the rows of the embedding; any other needs `outputs` of its own.")
    if outputs is not None and outputs.shape != (len(inputs), head.weight.shape[1]):
        raise BadInput(f"The head's rows are [{len(inputs)}, {head.weight.shape[1]}], not {list(outputs.shape)}.")
