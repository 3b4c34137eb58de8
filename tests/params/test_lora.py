"""LoRA factors: what the inventory says of them multiplies to what PEFT itself merges."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from holdfast.params.inventory import inventory
from tests.models import build, lora


def merged_change(model: nn.Module, target: str) -> torch.Tensor:
    """What PEFT itself adds to a weight when it merges its adapter."""
    before = dict(model.named_parameters())[target].detach().clone()
    model.merge_adapter()
    change = dict(model.named_parameters())[target].detach() - before
    model.unmerge_adapter()
    return change


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True, "target_modules": ["q_proj"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
        ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
        ("t5", {"target_modules": ["q", "wo"], "rank_pattern": {"wo": 4}, "alpha_pattern": {"wo": 2}}),
    ],
)
def test_lora_factors_multiply_to_what_peft_merges(arch: str, settings: dict) -> None:
    model = lora(build(arch, tied=False), **settings)
    values = dict(model.named_parameters())
    params = {param.path: param for param in inventory(model)}
    factors = [param for param in params.values() if param.lora]
    assert len(factors) == sum("lora_" in name for name in values) > 0
    for factor in factors:
        assert factor.lora is not None
        partner = params[factor.lora.partner]
        assert partner.lora is not None
        assert partner.lora.partner == factor.path
        assert (factor.component, factor.layer) == ("adapter", params[factor.lora.target].layer)
        if factor.lora.side == "B":
            product = factor.lora.scaling * values[factor.path] @ values[factor.lora.partner]
            change = product.T if factor.lora.transposed else product
            torch.testing.assert_close(change, merged_change(model, factor.lora.target), atol=1e-6, rtol=1e-5)


def test_magnitudes_of_dora_are_adapter_but_no_factor() -> None:
    params = inventory(lora(build("llama"), use_dora=True))
    magnitudes = [param for param in params if "magnitude" in param.path]
    assert len(magnitudes) == 9
    assert all(param.component == "adapter" and param.lora is None for param in magnitudes)


def test_factors_that_are_no_plain_product_are_adapter_all_the_same() -> None:
    settings = [
        peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10, tinit=1, tfinal=1),
        peft.LoraConfig(r=2, target_modules=[], target_parameters=["mlp.up_proj.weight"]),
    ]
    for one in settings:
        params = inventory(peft.get_peft_model(build("llama"), one))
        added = [param for param in params if "lora_" in param.path]
        assert len(added) >= 6
        assert all(param.component == "adapter" and param.lora is None for param in added)
