"""Freezing a part of a model once and for all: the lower layers, or whole components."""

from __future__ import annotations

import logging
import math

from torch import nn

from holdfast._errors import BadInput
from holdfast.params.inventory import Param, inventory

logger = logging.getLogger(__name__)


def freeze_layers(model: nn.Module, ratio: float = 0.7) -> tuple[int, int]:
    """Freeze the input embedding and the lowest `ratio` of the blocks, rounded down; (blocks frozen, left to train).

    The second figure counts elements that require a gradient. Works on any architecture; in encoder-decoder models
    each stack loses its lower blocks, and the figure is that of the longest one. What is tied to the embedding (often
    the head) is frozen with it. This sets `requires_grad`, no more: the rule `frozen` also holds against optimisers
    that know the weights already, and gives them back. Raises BadInput for a ratio outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise BadInput(f"The ratio of layers to freeze is from 0 to 1, not {ratio}.")
    params = inventory(model)
    held = [p for p in params if "embedding" in p.components or _lower(p, ratio)]
    count = max((_count(p, ratio) for p in params if p.layer is not None), default=0)
    return count, _freeze(model, held, params)


def freeze_components(model: nn.Module, attention: bool = True, mlp: bool = False, embeddings: bool = True) -> int:
    """Freeze all attention, all MLPs, all embeddings, each if asked; how many elements are left to train.

    What is tied to a frozen tensor is frozen with it. Norms are no part of either.
    """
    asked = {"attention": attention, "mlp": mlp, "embedding": embeddings}
    params = inventory(model)
    return _freeze(model, [p for p in params if any(asked.get(c, False) for c in p.components)], params)


def _count(param: Param, ratio: float) -> int:
    """How many blocks of a parameter's stack are frozen; 0.29 of 100 are 29, whatever floats make of it."""
    return math.floor(param.n_layers * ratio + 1e-9)


def _lower(param: Param, ratio: float) -> bool:
    return param.layer is not None and param.layer < _count(param, ratio)


def _freeze(model: nn.Module, held: list[Param], params: list[Param]) -> int:
    for param in held:
        model.get_parameter(param.path).requires_grad_(False)
    left = sum(p.numel for p in params if model.get_parameter(p.path).requires_grad)
    logger.info("Frozen: %d of %d tensors; %s elements train.", len(held), len(params), f"{left:,}")
    return left
