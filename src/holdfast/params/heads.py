"""What a model answers with: a label for a whole text, or the next tokens; and a classifier that can do both."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLASSIFIER = "ForSequenceClassification"
"""How transformers' names of classifiers end."""


class Headed:
    """Before a classifier's class: its loss knows class weights, and its backbone can be asked as a language model.

    Batches whose labels are [rows, tokens], and all batches while it `speaks`, are answered by the `speaker`, a
    language model on the same backbone, where there is one. A tuple holds it, so that its head is no part of the
    classifier and is not saved with it.
    """

    speaker: tuple[nn.Module, ...] = ()
    speaks = False

    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        """The outputs of the language model or of the classifier, whose loss is torch's weighted cross-entropy."""
        if self.speaker and (self.speaks or (labels is not None and labels.ndim == 2)):
            return self.speaker[0](*args, labels=labels, **kwargs)
        outputs = super().forward(*args, **kwargs)  # type: ignore[misc]
        if labels is not None:
            logits = outputs["logits"].float()
            outputs["loss"] = cross_entropy(logits, labels.to(logits.device), weight=class_weights(self, logits))
        return outputs


def headed(model: Any, speaker: nn.Module | None = None) -> Any:
    """The same classifier with what `Headed` adds, still under the name of its class, which is saved with it."""
    kind = type(model)
    if not isinstance(model, Headed):

        @functools.wraps(kind.forward)  # the Trainer reads from the signature what a model takes
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return Headed.forward(self, *args, **kwargs)

        model.__class__ = type(kind.__name__, (Headed, kind), {"__module__": kind.__module__, "forward": forward})
    vars(model)["speaker"] = () if speaker is None else (speaker,)
    return model


def classifies(model: nn.Module) -> bool:
    """Whether a model gives one answer for a whole text, below a PEFT wrapper too."""
    return type(unwrapped(model)).__name__.endswith(CLASSIFIER)


def speaker(model: nn.Module) -> Any:
    """The language model on a classifier's backbone, None where there is none; any other model is its own."""
    inner = unwrapped(model)
    return next(iter(getattr(inner, "speaker", ())), None) if classifies(inner) else model


@contextmanager
def speaking(model: nn.Module) -> Iterator[None]:
    """A classifier that answers as the language model on its backbone for a while; any other model as ever."""
    inner: Any = unwrapped(model)
    before = getattr(inner, "speaks", False)
    try:
        if isinstance(inner, Headed):
            inner.speaks = True
        yield
    finally:
        if isinstance(inner, Headed):
            inner.speaks = before


@contextmanager
def asked(model: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[None]:
    """The model while it is asked about a batch: where its labels are those of tokens, a classifier speaks."""
    if "labels" in batch and batch["labels"].ndim == 2:
        with speaking(model):
            yield
    else:
        yield


def class_weights(model: Any, like: Tensor) -> Tensor | None:
    """The weight of each class in a classifier's loss, as its config has them, beside a tensor; None: all alike."""
    weights = getattr(getattr(model, "config", None), "class_weights", None)
    return None if weights is None else torch.tensor(weights, dtype=like.dtype, device=like.device)


def unwrapped(model: Any) -> nn.Module:
    """The transformers model below a PEFT wrapper."""
    unwrap = getattr(model, "get_base_model", None)
    inner: nn.Module = unwrap() if callable(unwrap) else model
    return inner
