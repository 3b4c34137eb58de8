"""Freezing by layers and by components, on every architecture."""

from __future__ import annotations

import re

import pytest

from holdfast._errors import BadInput
from holdfast.params.freezing import freeze_components, freeze_layers
from tests.models import ARCHITECTURES, build


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_lower_blocks_and_embedding_are_frozen(arch: str) -> None:
    model = build(arch, tied=False)
    frozen, left = freeze_layers(model, 0.7)
    assert frozen == 2 and left == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0
    for name, p in model.named_parameters():
        if block := re.search(r"\.(\d+)\.", name):  # the first number in a path is that of the block
            assert p.requires_grad == (int(block[1]) == 2), name
    assert not model.get_input_embeddings().weight.requires_grad


def test_shares_are_counted_as_people_count_them() -> None:
    assert freeze_layers(build("llama"), 1 / 3)[0] == 1
    assert freeze_layers(build("llama"), 0.0)[0] == 0
    frozen, left = freeze_layers(build("llama"), 1.0)
    assert frozen == 3 and left == 16  # the final norm
    with pytest.raises(BadInput, match="ratio"):
        freeze_layers(build("llama"), 1.2)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_components_are_frozen_as_asked(arch: str) -> None:
    model = build(arch)
    whole = sum(p.numel() for p in model.parameters())
    assert freeze_components(model, attention=False, mlp=False, embeddings=False) == whole
    left = freeze_components(model, attention=True, mlp=False, embeddings=True)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert 0 < left < whole and not model.get_input_embeddings().weight.requires_grad
    assert not any("q_proj" in n or "c_attn" in n or "query" in n or "SelfAttention.q" in n for n in names)
    assert any("up_proj" in n or "c_fc" in n or "fc1" in n or "dense" in n or "DenseReluDense" in n for n in names)
    assert freeze_components(model, attention=False, mlp=True, embeddings=False) < left
