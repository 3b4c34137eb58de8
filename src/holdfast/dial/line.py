"""The way from the model before to the model after, for all weights together or for one block after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from holdfast._errors import BadInput
from holdfast.params.inventory import Param, inventory
from holdfast.params.weights import Values, between, copied, swapped

Fractions = Mapping[str, float]
"""How much of the way each block has gone: 0 is before, 1 is after."""

Way = Callable[[float], Fractions]
"""From a setting of the dial in [0, 1] to the fractions of the blocks; 0 is the model before, 1 the model after."""


class Line:
    """Weights between two models of one shape: W = (1 - f) W_before + f W_after, f of each block its own.

    Adapters are merged first, so their product moves on the line and not their factors (for a LoRA run from its base
    f is the scale of the product). `model` is the one before, and is left as it was. Only what differs is held twice.
    Wortsman et al. (2022), arXiv:2109.01903 (WiSE-FT). Raises BadInput for models of different shapes.
    """

    def __init__(self, before: nn.Module, after: nn.Module):
        self.model = merged(before)
        ours, theirs = (dict(model.named_parameters()) for model in (self.model, merged(after)))
        if {n: p.shape for n, p in ours.items()} != {n: p.shape for n, p in theirs.items()}:
            raise BadInput("The models before and after have different weights; there is no line between them.")
        moved = {name for name, p in ours.items() if not torch.equal(p, theirs[name].to(p.device))}
        self.tensors = {name: ours[name] for name in moved}
        self.before, self.after = (copied({n: model[n] for n in moved}) for model in (ours, theirs))
        self.blocks = _blocks([param for param in inventory(self.model) if param.path in moved])

    def values(self, fractions: Fractions) -> Values:
        """The weights where each block has gone its fraction of the way; exactly before at 0, exactly after at 1."""
        made: Values = {}
        for block, paths in self.blocks.items():
            start, end = ({path: values[path] for path in paths} for values in (self.before, self.after))
            made |= between(start, end, fractions[block])
        return made

    @contextmanager
    def at(self, fractions: Fractions) -> Iterator[nn.Module]:
        """The model at a place of the way for a while."""
        with swapped(self.tensors, self.values(fractions)):
            yield self.model


def together(blocks: Sequence[str]) -> Way:
    """All blocks go the same fraction of the way."""
    return lambda setting: dict.fromkeys(blocks, setting)


def in_turn(order: Sequence[str]) -> Way:
    """One block after the other goes back all the way, the first of `order` first, as the dial goes from 1 to 0."""

    def fractions(setting: float) -> Fractions:
        gone = (1 - setting) * len(order)
        return {block: 1 - min(max(gone - place, 0.0), 1.0) for place, block in enumerate(order)}

    return fractions


def merged(model: Any) -> nn.Module:
    """The model with its adapter merged into its weights; a plain model as it is."""
    plain: nn.Module = model.merge_and_unload() if isinstance(model, PeftModel) else model
    return plain


def _blocks(params: Sequence[Param]) -> dict[str, list[str]]:
    """Paths by block: each layer of the model, and each component outside the layers."""
    found: dict[str, list[str]] = {}
    for param in params:
        layered = f"{param.stack}.{param.layer}" if param.stack else f"layers.{param.layer}"
        found.setdefault(param.component if param.layer is None else layered, []).append(param.path)
    return found
