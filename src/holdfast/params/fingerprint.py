"""Which model is it? Short names for the structure and for the weights of a model, without its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from holdfast.params.weights import local

SAMPLED = 64
"""Elements of each tensor that are looked at, spread evenly; an optimiser step changes some of them in any case."""


def structure(model: nn.Module) -> str:
    """SHA-256 over path, shape and dtype of every parameter."""
    lines = (f"{path} {list(p.shape)} {p.dtype}\n" for path, p in model.named_parameters())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@torch.no_grad()
def weights(model: nn.Module) -> str:
    """SHA-256 over path, structure and a sample of elements of every parameter, wherever it is stored.

    A sample, since importance is saved and loaded for models of any size; it takes no longer than it takes to walk
    through the parameters.
    """
    return sampled(dict(model.named_parameters()), structure(model))


@torch.no_grad()
def sampled(values: Mapping[str, Tensor], shape: str = "") -> str:
    """SHA-256 over `shape`, and over path and a sample of elements of each of these tensors."""
    sha = hashlib.sha256(shape.encode())
    for path, value in values.items():
        flat = local(value).reshape(-1)
        count = min(SAMPLED, len(flat))
        places = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(1, count - 1)
        sha.update(path.encode() + flat[places].double().cpu().numpy().tobytes())
    return sha.hexdigest()
