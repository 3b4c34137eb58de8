"""A model in the precision of its own weights, whatever trains it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def own_precision(model: nn.Module) -> Iterator[torch.device]:
    """No autocast for a while: neither a caller's, nor the one that accelerate puts around a model's `forward`.

    Accelerate's stays on the model after training. Without this, a base that was scored before training and a tuned
    model that is scored after it would be scored in different precisions. Yields the device of the model.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    wrapped, plain = vars(model).get("forward"), vars(model).get("_original_forward")
    try:
        if plain is not None:
            model.forward = plain
        with torch.autocast(device.type, enabled=False):
            yield device
    finally:
        if plain is not None:
            model.forward = wrapped  # type: ignore[assignment]
