"""The loss a model was made for, counted and scaled over a whole accumulation window."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from holdfast.params.heads import class_weights, classifies, unwrapped


def shifts_labels(model: nn.Module) -> bool:
    """Whether the model's loss compares position i with label i + 1 (decoder-only language models do)."""
    inner = unwrapped(model)
    decoder_only = not getattr(getattr(inner, "config", None), "is_encoder_decoder", False)
    return decoder_only and LOSS_MAPPING.get(getattr(inner, "loss_type", "")) is ForCausalLMLoss


def items(model: nn.Module, batch: dict[str, Tensor]) -> float:
    """How much of a batch is learnt from: tokens; of a classifier rows, each as much as its class weighs.

    Text beside labelled rows counts by rows as well: a text is no more than a label for having more tokens.
    """
    labels = batch["labels"]
    if labels.ndim > 1 and classifies(model):
        return int(labels[..., 1:].ne(-100).any(1).sum())
    if labels.ndim > 1:
        return int((labels[..., 1:] if shifts_labels(model) else labels).ne(-100).sum())
    weights = class_weights(unwrapped(model), torch.empty(0, device=labels.device))
    return len(labels) if weights is None else float(weights[labels].sum())


def accepts_items(model: nn.Module) -> bool:
    """Whether the model divides its loss by the `num_items_in_batch` that it is given.

    Language models that read from left to right do. Classifiers, encoders and most encoder-decoders of transformers
    take the argument and pass it over: their loss stays the mean of the batch, and under gradient accumulation
    transformers' Trainer would add these means up.
    """
    inner = unwrapped(model)
    if hasattr(inner, "accepts_loss_kwargs"):
        return bool(inner.accepts_loss_kwargs)
    encodes = getattr(getattr(inner, "config", None), "is_encoder_decoder", False)
    if classifies(inner) or encodes or type(inner).__name__.endswith("ForMaskedLM"):
        return False
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(inner.forward).parameters.values())


def loss_of(model: nn.Module, batch: dict[str, Tensor], count: float, micro_batches: int) -> tuple[Tensor, Any]:
    """One micro-batch's share of the step's loss, and the model's outputs.

    `count` is the number of items in the whole accumulation window of `micro_batches` micro-batches.
    """
    if accepts_items(model):
        outputs = model(**batch, num_items_in_batch=count)
        return outputs.loss, outputs
    outputs = model(**batch)
    return outputs.loss * share(model, batch, count), outputs


def share(model: nn.Module, batch: dict[str, Tensor], count: float) -> float:
    """What part of `count` items a batch holds: what its mean loss counts for in the mean over all of them."""
    return items(model, batch) / count if count else 0.0
