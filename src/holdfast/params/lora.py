"""The pairs of LoRA factors in a PEFT model, and the weight that each pair is added to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn


@dataclass(frozen=True)
class LoraFactor:
    """One of the two factors of a LoRA pair: the target moves by `scaling * B @ A`, transposed if `transposed`.

    `partner` and `target` are canonical paths. `transposed` is true where the target is stored [in, out] (the Conv1D of
    GPT-2, an embedding). Under DoRA the product is what is added before the magnitudes are applied.
    """

    side: Literal["A", "B"]
    partner: str
    scaling: float
    target: str
    transposed: bool


def lora_factors(modules: dict[str, nn.Module], canonical: dict[str, str]) -> Iterator[tuple[str, LoraFactor]]:
    """Both factors of every PEFT LoRA pair that is a plain product of two matrices, by canonical path."""
    for path, layer in modules.items():
        for a, b, name, flipped in _pairs(path, layer):
            if a in canonical and b in canonical and (target := _target(path, layer)) in canonical:
                scaling: Any = layer.scaling
                common = float(scaling[name]), canonical[target], flipped
                yield canonical[a], LoraFactor("A", canonical[b], *common)
                yield canonical[b], LoraFactor("B", canonical[a], *common)


def _pairs(path: str, layer: nn.Module) -> Iterator[tuple[str, str, str, bool]]:
    """Paths of A and B, adapter name, and whether the product is transposed; convolutions and AdaLoRA give none."""
    if hasattr(layer, "parameter_name"):
        return  # PEFT's factors on a bare parameter hold one product per expert
    linear: Any = getattr(layer, "lora_A", None)
    for name, factor in linear.items() if isinstance(linear, nn.ModuleDict) else ():
        if isinstance(factor, nn.Linear):
            flipped = bool(getattr(layer, "fan_in_fan_out", False))
            yield f"{path}.lora_A.{name}.weight", f"{path}.lora_B.{name}.weight", name, flipped
    for name in getattr(layer, "lora_embedding_A", None) or ():
        yield f"{path}.lora_embedding_A.{name}", f"{path}.lora_embedding_B.{name}", str(name), True


def _target(path: str, layer: nn.Module) -> str:
    """The weight under a PEFT layer, below further wrappers if there are any."""
    while isinstance(inner := getattr(layer, "base_layer", None), nn.Module):
        path, layer = f"{path}.base_layer", inner
    return f"{path}.weight"
