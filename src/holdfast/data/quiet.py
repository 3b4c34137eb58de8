"""Ask a model something without leaving a trace in it: evaluation mode, no gradient, own precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from holdfast.params.precision import own_precision


@contextmanager
def quiet(model: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode, no gradients and no autocast; afterwards the mode of every submodule is as before.

    Autocast is off even inside a caller's autocast and in a model that accelerate prepared, so that figures do not
    depend on who asks. `no_grad` rather than `inference_mode`: what a model caches in passing (rotary tables) stays
    usable in training. Yields the device that the inputs belong on.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), own_precision(model) as device:
            model.eval()
            yield device
    finally:
        for module, mode in modes.items():
            module.training = mode
