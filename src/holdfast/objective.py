"""The loss a model was made for, counted and scaled as transformers' Trainer does it."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss


def shifts_labels(model: nn.Module) -> bool:
    """Whether the model's loss compares position i with label i + 1 (decoder-only language models do)."""
    inner = _inner(model)
    decoder_only = not getattr(getattr(inner, "config", None), "is_encoder_decoder", False)
    return decoder_only and LOSS_MAPPING.get(getattr(inner, "loss_type", "")) is ForCausalLMLoss


def items(model: nn.Module, batch: dict[str, Tensor]) -> int:
    """How many tokens of a batch are learnt from."""
    labels = batch["labels"][..., 1:] if shifts_labels(model) else batch["labels"]
    return int(labels.ne(-100).sum())


def accepts_items(model: nn.Module) -> bool:
    """Whether the model divides its loss by the `num_items_in_batch` that it is given."""
    inner = _inner(model)
    if hasattr(inner, "accepts_loss_kwargs"):
        return bool(inner.accepts_loss_kwargs)
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(inner.forward).parameters.values())


def loss_of(model: nn.Module, batch: dict[str, Tensor], count: int, micro_batches: int) -> tuple[Tensor, Any]:
    """One micro-batch's share of the step's loss, and the model's outputs.

    `count` is the number of items in the whole accumulation window of `micro_batches` micro-batches.
    """
    if accepts_items(model):
        outputs = model(**batch, num_items_in_batch=count)
        return outputs.loss, outputs
    outputs = model(**batch)
    return outputs.loss / micro_batches, outputs


def _inner(model: nn.Module) -> nn.Module:
    """The transformers model below a PEFT wrapper."""
    get = getattr(model, "get_base_model", None)
    return get() if callable(get) else model
