"""LoRA adapters added up: the product s B A of the sum is the weighted sum of their products."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from holdfast._errors import BadInput, Unsupported

PLAIN = {
    "use_dora": False,
    "lora_bias": False,
    "target_parameters": None,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "layer_replication": None,
}
"""What a config says where an adapter is nothing but its products."""


def combined(model: PeftModel, name: str, weights: Mapping[str, float], rank: int | None = None) -> None:
    """Put an adapter `name` on `model` whose products are the sum over `weights` of w s B A.

    Ranks, scalings and targets may differ, weights may be negative. Without `rank` the sum is exact, and its rank is
    the sum of the ranks: A [r, in] and B [out, r] stand one below and one beside the other. With `rank` it is the
    nearest of that rank in each layer (Eckart and Young 1936), found from the factors without the product.

    Raises BadInput for no weights, weights that are not finite and ranks below 1, Unsupported for adapters that are
    more than products of two matrices.
    """
    if not weights or not all(math.isfinite(w) for w in weights.values()) or (rank is not None and rank < 1):
        raise BadInput(f"Adapters are combined with finite weights and a rank >= 1, not {dict(weights)} and {rank}.")
    for other in weights:
        _check(other, model.peft_config[other])
    sums = {path: _sum(layer, weights, rank) for path, layer in _layers(model, weights)}
    whole = max(a.shape[0] for a, _ in sums.values())
    config: Any = next(model.peft_config[other] for other in weights)
    model.add_adapter(
        name,
        LoraConfig(
            r=whole,
            lora_alpha=whole,
            target_modules=list(sums),
            fan_in_fan_out=config.fan_in_fan_out,
            task_type=config.task_type,
            base_model_name_or_path=config.base_model_name_or_path,
        ),
    )
    for path, layer in _layers(model, [name]):
        for factor, values in zip(_factors(layer, name), sums[path], strict=True):
            _fill(factor, values)


def _check(name: str, config: Any) -> None:
    if not isinstance(config, LoraConfig) or type(config) is not LoraConfig:
        raise Unsupported(f"Only LoRA adapters have products to add up, and {name!r} is {config.peft_type}.")
    if odd := [key for key, plain in PLAIN.items() if (getattr(config, key, plain) or plain) != plain]:
        raise Unsupported(f"The adapter {name!r} is more than products of two matrices ({', '.join(odd)}).")


def _layers(model: PeftModel, names: Any) -> Iterator[tuple[str, LoraLayer]]:
    for path, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and any(n in layer.lora_A or n in layer.lora_embedding_A for n in names):
            yield path, layer


def _factors(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """A [r, in] and B [out, r]; of an embedding, `in` is its vocabulary."""
    if name in layer.lora_embedding_A:
        return layer.lora_embedding_A[name].data, layer.lora_embedding_B[name].data
    a, b = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
    if a.ndim != 2 or layer.lora_variant.get(name) is not None:
        raise Unsupported(f"The adapter {name!r} has factors in {type(layer).__name__} that are no plain matrices.")
    return a, b


def _sum(layer: Any, weights: Mapping[str, float], rank: int | None) -> tuple[Tensor, Tensor]:
    parts = [(w * layer.scaling[n], *_factors(layer, n)) for n, w in weights.items() if n in layer.scaling]
    a = torch.cat([factor * a.float() for factor, a, _ in parts])
    b = torch.cat([b.float() for _, _, b in parts], dim=1)
    return (a, b) if rank is None else _nearest(a, b, rank)


def _nearest(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of at most `rank` whose product is nearest to b a, of even weight."""
    (left, low), (right, high) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(low @ high.T, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * (vh[:rank] @ right.T), (left @ u[:, :rank]) * root


def _fill(factor: Tensor, values: Tensor) -> None:
    """Layers where the sum has a lower rank than elsewhere get zeros for the rest."""
    factor.zero_()
    factor[: values.shape[0], : values.shape[1]].copy_(values)
