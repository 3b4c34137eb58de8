"""Depth: embedding below block 0, head and final norm above the last block, on every architecture."""

from __future__ import annotations

import pytest

from holdfast.params.depth import below_top, depth
from holdfast.params.inventory import inventory
from tests.models import ARCHITECTURES, LAYERS, build


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_stages_follow_the_model_from_bottom_to_top(arch: str) -> None:
    params = inventory(build(arch, tied=False))
    for param in params:
        assert depth(param) + below_top(param) == LAYERS + 1
        if param.layer is not None:
            assert depth(param) == param.layer + 1
        elif param.component in ("embedding", "head"):
            assert depth(param) == {"embedding": 0, "head": LAYERS + 1}[param.component]
    assert {depth(param) for param in params} == set(range(LAYERS + 2))


def test_the_final_norm_stands_above_and_berts_embedding_norm_below() -> None:
    above = {p.path: depth(p) for arch in ("llama", "gpt2", "opt") for p in inventory(build(arch))}
    assert above["model.norm.weight"] == above["transformer.ln_f.weight"] == LAYERS + 1
    assert above["model.decoder.final_layer_norm.weight"] == LAYERS + 1
    below = {p.path: depth(p) for p in inventory(build("bert"))}
    assert below["bert.embeddings.LayerNorm.weight"] == 0


def test_a_tied_head_counts_as_embedding() -> None:
    assert depth(inventory(build("llama", tied=True))[0]) == 0
