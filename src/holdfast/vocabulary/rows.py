"""New rows of a vocabulary laid over a matrix that stays as it is, found again, taken away, and folded into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from holdfast._errors import BadInput, Unsupported
from holdfast.params.heads import unwrapped
from holdfast.vocabulary.layers import ROWS as ROWS
from holdfast.vocabulary.layers import Extended as Extended
from holdfast.vocabulary.layers import ExtendedEmbedding, ExtendedHead


def lay(model: PreTrainedModel, boundary: int, inputs: Tensor, outputs: Tensor | None = None) -> None:
    """Lay new rows over the embedding and head of a model, for the ids from `boundary` on; they alone come to train.

    `inputs` [rows, width] are what the new ids are read as. `outputs` are what the head scores them by; where it is
    tied to the embedding it takes the same ones, and `outputs` must be None. Nothing else of the model changes, its
    `requires_grad` flags included; its config counts the new ids. Rows that are there already are replaced.

    Raises Unsupported for a model without such an embedding and head, BadInput for rows of another shape.
    """
    check_rows(model, inputs, outputs)
    into, head = sides(model)
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


@contextmanager
def counted_as_before(model: Any) -> Iterator[None]:
    """The config without the new ids for a while: PEFT finds the embedding, and what to save, by that number."""
    into, inner = embedding_of(model), unwrapped(model)
    if into is None:
        yield
        return
    try:
        _count(inner, len(into.weight))
        yield
    finally:
        _count(inner, into.width)


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


def check_rows(model: Any, inputs: Tensor, outputs: Tensor | None = None) -> None:
    """Raise what `lay` would raise of a model and rows for it."""
    into, head = sides(model)
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
