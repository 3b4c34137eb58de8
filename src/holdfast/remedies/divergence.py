"""How far the model's predictions are from its teacher's, token by token: both Kullback-Leibler ways, and logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


@dataclass(frozen=True)
class Likeliest:
    """What a teacher said about some tokens, its k likeliest answers each.

    `values` are their logits, float32 [tokens, k], `indices` their places in the vocabulary, int [tokens, k], and
    `rest` is the logarithm of the sum of exp(logit / temperature) over all others, float32 [tokens]; -inf where there
    are none.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor


def likeliest(logits: Tensor, k: int, temperature: float = 1.0) -> Likeliest:
    """The k likeliest answers of logits [tokens, vocabulary], or all where there are fewer."""
    k = min(k, logits.shape[-1])
    values, indices = logits.float().topk(k, dim=-1)
    return Likeliest(values, indices, _others(_scaled(logits, temperature), indices))


def outcomes(teacher: Tensor | Likeliest, model: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of teacher and model over the same outcomes, float32 [tokens, outcomes] each.

    The outcomes are the vocabulary, or the teacher's k likeliest tokens and "any other": a divergence between these is
    never more than the whole one, and is the whole one where k is the vocabulary.
    """
    scaled = _scaled(model, temperature)
    if isinstance(teacher, Tensor):
        return log_softmax(_scaled(teacher, temperature), -1), log_softmax(scaled, -1)
    theirs, ours = teacher.values / temperature, scaled.gather(-1, teacher.indices.long())
    if ours.shape[-1] < scaled.shape[-1]:
        theirs = torch.cat([theirs, teacher.rest[:, None]], -1)
        ours = torch.cat([ours, _others(scaled, teacher.indices)[:, None]], -1)
    return log_softmax(theirs, -1), log_softmax(ours, -1)


def forward(teacher: Tensor | Likeliest, model: Tensor, temperature: float) -> Tensor:
    """KL(teacher || model) in nats per token, float32 [tokens]: the model is to give all that the teacher gives."""
    theirs, ours = outcomes(teacher, model, temperature)
    return kl_div(ours, theirs, log_target=True, reduction="none").sum(-1)


def reverse(teacher: Tensor | Likeliest, model: Tensor, temperature: float) -> Tensor:
    """KL(model || teacher) in nats per token, float32 [tokens]: the model is to give nothing that the teacher does not.

    Gu et al. (2024), arXiv:2306.08543.
    """
    theirs, ours = outcomes(teacher, model, temperature)
    return kl_div(theirs, ours, log_target=True, reduction="none").sum(-1)


def logits(teacher: Tensor | Likeliest, model: Tensor, temperature: float) -> Tensor:
    """The mean squared difference of the logits of each token, float32 [tokens]; of the k likeliest, where that is all.

    Buzzega et al. (2020), "Dark experience for general continual learning", arXiv:2004.07211.
    """
    if isinstance(teacher, Likeliest):
        return logits(teacher.values, model.gather(-1, teacher.indices.long()), temperature)
    return (model.float() - teacher.float()).div(temperature).square().mean(-1)


DIRECTIONS: Mapping[str, Callable[[Tensor | Likeliest, Tensor, float], Tensor]] = {
    "forward": forward,
    "reverse": reverse,
    "logits": logits,
}
"""What is minimised, by the name that recipes use."""


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return logits.float() if temperature == 1 else logits.float() / temperature


def _others(scaled: Tensor, indices: Tensor) -> Tensor:
    """logsumexp over all but the given places, [tokens]; not as a difference, which rounding would eat up."""
    if indices.shape[-1] == scaled.shape[-1]:
        return scaled.new_full(scaled.shape[:-1], -math.inf)
    return scaled.scatter(-1, indices.long(), -math.inf).logsumexp(-1)
