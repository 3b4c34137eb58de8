"""Layers and parameters are found by the names that people use, on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from holdfast._errors import BadInput, UnmatchedSelect
from holdfast.llm.backends.mock import MockModule
from holdfast.llm.places import by_path, layer, parameter
from holdfast.params.inventory import Param, inventory
from tests.models import ARCHITECTURES, LAYERS, build


def params(arch: str) -> list[Param]:
    return inventory(build(arch))


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "lora"])
def test_the_three_layers_of_the_guide_hold_every_parameter(arch: str) -> None:
    found = params(arch)
    parts = {name: set(layer(name, found)) for name in ("embedding", "encoder", "decoder")}
    assert set.union(*parts.values()) == {p.path for p in found}
    assert not parts["encoder"] & (parts["embedding"] | parts["decoder"])
    tied = {p.path for p in found if {"embedding", "head"} <= p.components}
    assert parts["embedding"] & parts["decoder"] == tied


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "gpt_neox", "opt"])
def test_decoder_only_models_are_parted_at_half_height(arch: str) -> None:
    found = params(arch)
    lower, upper = set(layer("encoder", found)), set(layer("decoder", found))
    assert lower == {p.path for p in found if p.layer is not None and p.layer < LAYERS // 2}
    assert {p.path for p in found if p.layer is not None and p.layer >= LAYERS // 2} < upper
    assert {p.path for p in found if p.component == "norm" and p.layer is None} < upper


def test_the_embedding_of_a_llama_is_its_input_embedding() -> None:
    assert layer("embedding", params("llama")) == ["model.embed_tokens.weight"]


def test_encoder_and_decoder_of_a_t5_are_its_own() -> None:
    found = params("t5")
    assert all(path.startswith("encoder.") for path in layer("encoder", found))
    assert {p.path for p in found if p.path.startswith("decoder.")} <= set(layer("decoder", found))


def test_all_blocks_of_a_bert_are_its_encoder() -> None:
    assert set(layer("encoder", params("bert"))) == {p.path for p in params("bert") if p.layer is not None}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.1", "model.layers.1."),
        ("layers.1", "model.layers.1."),
        ("layers(1:2)", "model.layers.1."),
        ("self_attn", ".self_attn."),
        ("mlp", ".mlp."),
        ("q_proj", ".q_proj."),
    ],
)
def test_layers_are_modules_components_and_selections_too(name: str, expected: str) -> None:
    assert layer(name, params("llama")) == [p.path for p in params("llama") if expected in p.path]


def test_components_are_layers() -> None:
    assert layer("norm", params("llama")) == [p.path for p in params("llama") if p.component == "norm"]


def test_flat_names_are_found_by_their_words() -> None:
    flat = nn.Module()
    for name in ("embedding_weights", "attention_weights"):
        flat.register_parameter(name, nn.Parameter(build("llama").model.norm.weight.detach().clone()))
    assert layer("embedding", inventory(flat)) == ["embedding_weights"]


def test_the_mocks_layers_own_the_tensors_that_the_guide_names() -> None:
    found = inventory(MockModule())
    owned = {name: layer(name, found) for name in ("embedding", "encoder", "decoder")}
    assert owned == {
        "embedding": ["embedding_weights"],
        "encoder": ["attention_weights"],
        "decoder": ["output_weights"],
    }


@pytest.mark.parametrize(
    ("name", "near"), [("embeding", "embedding"), ("layres.0", "layers.0"), ("layers(7:9)", "layers")]
)
def test_an_unknown_layer_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnmatchedSelect, match=near):
        layer(name, params("llama"))


def test_parameters_by_full_name_by_end_by_glob_and_by_a_tied_name() -> None:
    found = params("llama")
    assert parameter("model.norm.weight", found) == ["model.norm.weight"]
    assert parameter("layers.1.mlp.up_proj.weight", found) == ["model.layers.1.mlp.up_proj.weight"]
    assert len(parameter("q_proj.weight", found)) == len(parameter("*.q_proj.*", found)) == LAYERS
    assert parameter("lm_head.weight", found) == ["model.embed_tokens.weight"]
    with pytest.raises(UnmatchedSelect, match=r"model\.norm\.weight"):
        parameter("model.nrom.weight", found)


def test_a_gradient_names_exactly_one_parameter() -> None:
    found = params("llama")
    assert list(by_path(found, {"lm_head.weight": 0})) == ["model.embed_tokens.weight"]
    with pytest.raises(BadInput, match="names 3"):
        by_path(found, {"q_proj.weight": np.zeros(3)})
    with pytest.raises(BadInput, match="Two gradients"):
        by_path(found, {"lm_head.weight": 0, "model.embed_tokens.weight": 0})
