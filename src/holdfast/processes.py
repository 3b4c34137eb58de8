"""Several processes that train together: which one this is, and what all of them agree on."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def place() -> tuple[int, int]:
    """The index of this process and the number of processes; (0, 1) for a run of its own."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def mean(figure: Tensor, device: torch.device) -> Tensor:
    """The mean of a figure over all processes, exchanged on `device`; itself where there is only one."""
    if place()[1] == 1:
        return figure
    total = figure.detach().to(device, copy=True)
    distributed.all_reduce(total)
    return (total / place()[1]).to(figure.device)
