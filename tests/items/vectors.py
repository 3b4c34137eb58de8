"""Made-up embeddings with families of items that are alike."""

from __future__ import annotations

import torch
from torch import Tensor


def families(items: int = 300, dim: int = 16, *, number: int = 10, seed: int = 0) -> Tensor:
    """Embeddings [items, dim] around so many centres, no two alike."""
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(number, dim, generator=draws) * 2
    return centres[torch.arange(items) % number] + torch.randn(items, dim, generator=draws)


def names(items: int) -> list[str]:
    return [str(i) for i in range(items)]
