"""The exact diagonal Fisher information of each weight on a text, one sequence at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holdfast._errors import BadInput
from holdfast.params.differentiation import Importance, Progress, losses, over_examples
from holdfast.params.per_example import Batch, itself


def fisher(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    paths: Collection[str] | None = None,
    chunk_bytes: int = 8 * 2**20,
    progress: Progress = None,
) -> Importance:
    """The diagonal of the empirical Fisher information, at the level of whole sequences.

    F = 1/n * sum over the n sequences i of (d L_i / d w)^2, where L_i is the SUM in nats of the token losses of
    sequence i under the labels in the data: the EMPIRICAL estimator of van de Ven (arXiv:2502.11756) with a sequence
    as the example, after Kirkpatrick et al. (arXiv:1612.00796). Each gradient is squared for one sequence by itself,
    never for a batch, so how the sequences are batched does not matter.

    While autograd walks back, each layer's per-example gradients are formed from its input and the gradient of its
    output (Goodfellow, arXiv:1510.01799), squared, added up in float32 and dropped. A parameter used several times
    (tied embeddings, shared layers) has its gradients added before they are squared. Every rule is first
    compared with autograd on two short rows; a parameter without a rule that agrees is looped over, example by example.

    Beside activations and the result, memory holds one chunk of one layer's per-example gradients, and for tied
    embeddings the gradient of the logits, which waits for that of the embedding.

    Args:
        model: a transformers language model, PEFT-wrapped or not. It runs without dropout and outside any autocast,
            and is left as it was (modes, flags, hooks, `.grad`), also after an exception.
        batches: dicts of [rows, tokens] tensors: `input_ids`, `labels` (-100 where nothing is learnt, not shifted),
            and `attention_mask` where there is padding. Labels are shifted here unless the model is an
            encoder-decoder or a masked language model.
        paths: names as in `model.named_parameters()`, tied aliases included; frozen weights may be named too.
            None takes all that require a gradient.
        chunk_bytes: how much of one layer's per-example gradients is held at once (one row at least); what fits
            into a processor's cache is fastest.
        progress: called with the number of sequences done, after each batch.

    Returns:
        path -> float32 tensor of the parameter's shape, in squared nats, in the model's order.

    Raises:
        UnknownName: a path that the model does not have.
        BadInput: no sequences, or no parameters.
        Unsupported: sharded or quantised parameters, or a model that gives no logits.
    """
    return over_examples(model, batches, losses, itself, paths=paths, chunk_bytes=chunk_bytes, progress=progress)


def product_fisher(model: nn.Module, batches: Iterable[Batch], **options: Any) -> dict[str, Tensor]:
    """The Fisher information of the weights that LoRA adapters are added to, that is, of each product s * B A.

    The product moves the function exactly as the frozen weight below it would, so their per-example squares are the
    same; A and B apart have no such meaning (EWC-LoRA, arXiv:2602.17559). Each tensor has the shape and the path of the
    frozen weight ("... .base_layer.weight"). Options and errors as in `fisher`; BadInput where there is no LoRA layer.
    """
    places = [n for n, m in model.named_modules() if hasattr(m, "base_layer") and len(getattr(m, "lora_A", ()))]
    if not places:
        raise BadInput("This model has no LoRA layers; use `fisher` for the Fisher information of its own weights.")
    return fisher(model, batches, paths=[f"{place}.base_layer.weight" for place in places], **options)


def normalised(importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Importance divided by its mean over ALL elements of ALL tensors, so that the joint mean is 1.

    Joint on purpose: the ratios between tensors are the information, so a tensor that matters little stays small.
    Raises BadInput where the values are all zero or not finite.
    """
    total = sum(float(t.sum(dtype=torch.float64)) for t in importance.values())
    if not 0 < total < float("inf"):
        raise BadInput(f"Importance that sums to {total} has no mean to divide by; look at the text and the model.")
    factor = sum(t.numel() for t in importance.values()) / total
    return {path: t * factor for path, t in importance.items()}
