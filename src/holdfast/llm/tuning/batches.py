"""A batch as the guide hands it over, as a model reads it, and what is learnt from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from holdfast._errors import BadInput, TrainingStopped
from holdfast.data.rows import IGNORED
from holdfast.llm.tuning.tuned import Tuned
from holdfast.objective import items, shifts_labels
from holdfast.rule import REPLAYED


@dataclass(frozen=True)
class Learnt:
    """One forward pass: the mean loss (a scalar), what it is the mean of, and the model's outputs."""

    loss: Tensor
    items: float
    outputs: Any


def read(model: nn.Module, batch: Any) -> Any:
    """A batch on the model's device, by the names of a transformers model's arguments.

    Read are mappings; (inputs, labels) with a mapping or tokens [rows, length] for the inputs and labels [rows]; and
    (tokens, mask) or (tokens, mask, labels) as `DataProcessor` makes them. Where labels are missing a language model
    learns the tokens themselves. For a model without transformers' config the batch stays as it is. Raises BadInput
    for any other batch, and for missing labels where there is nothing to learn without them.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if getattr(model, "config", None) is None:
        return _moved(batch, device)
    named = {key: value.to(device) for key, value in _named(batch).items() if isinstance(value, Tensor)}
    if named.get("labels") is None:
        if not shifts_labels(model):
            raise BadInput(f"A {_kind(model)} learns nothing without labels: put them last in the batch.")
        mask = named.get("attention_mask", torch.ones_like(named["input_ids"]))
        named["labels"] = named["input_ids"].masked_fill(mask == 0, IGNORED)
    return named


def learnt(model: nn.Module, batch: Any) -> Learnt:
    """Ask a model about a batch that was `read`; a model without config answers with its loss, as in the guide.

    Raises BadInput where it answers without one, TrainingStopped where the loss is not finite.
    """
    own = getattr(model, "config", None) is None
    given = batch if own else {key: value for key, value in batch.items() if key != REPLAYED}
    outputs = model(batch) if own else model(**given)
    loss = outputs if isinstance(outputs, Tensor) else getattr(outputs, "loss", None)
    if loss is None or loss.ndim:
        raise BadInput(f"{_kind(model)} answers without a loss. Hand over labels, or a model that gives one.")
    if not torch.isfinite(loss):
        raise TrainingStopped(
            f"The loss is {float(loss.detach())}: nothing was learnt from this batch. Take a lower learning rate, or "
            "look at the batch."
        )
    return Learnt(loss, _rows(batch) if own else counted(model, given), outputs)


def counted(model: nn.Module, batch: dict[str, Tensor]) -> float:
    """How much the loss of a batch is the mean of: tokens, or rows."""
    labels = batch["labels"]
    if labels.ndim == 2 and _prompted(model):
        return int(labels.ne(IGNORED).sum())  # the last virtual token predicts the first of the text
    return items(model, batch)


def _prompted(model: Any) -> bool:
    """Whether virtual tokens stand in the row itself."""
    peft = model.adapted if isinstance(model, Tuned) else model
    config = peft.active_peft_config if isinstance(peft, PeftModel) else None
    return config is not None and config.is_prompt_learning and config.peft_type != "PREFIX_TUNING"


def _named(batch: Any) -> dict[str, Any]:
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, Tensor):
        return {"input_ids": batch}
    parts = list(batch) if isinstance(batch, Sequence) else []
    if len(parts) == 2 and isinstance(parts[0], Mapping):
        return {**parts[0], "labels": parts[1]}
    if not 1 <= len(parts) <= 3 or not all(isinstance(part, Tensor) for part in parts):
        raise BadInput("A batch is a mapping, or tensors: (tokens, mask), (tokens, labels) or (tokens, mask, labels).")
    if len(parts) == 2 and parts[1].ndim != 2:
        return {"input_ids": parts[0], "labels": parts[1]}
    return dict(zip(("input_ids", "attention_mask", "labels"), parts, strict=False))


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    return type(batch)(_moved(part, device) for part in batch) if isinstance(batch, list | tuple) else batch


def _rows(batch: Any) -> int:
    """Rows of a batch that a model of one's own reads, 1 where it does not say."""
    first = next(iter(batch.values()), None) if isinstance(batch, Mapping) else batch
    while isinstance(first, list | tuple) and first:
        first = first[0]
    return len(first) if isinstance(first, Tensor) and first.ndim else 1


def _kind(model: Any) -> str:
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
