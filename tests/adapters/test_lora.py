"""LoRA: what it adds, where, and that it says no to names that match nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from holdfast._errors import BadInput, UnmatchedSelect
from holdfast.adapters.full import full
from holdfast.adapters.lora import lora
from holdfast.adapters.method import methods
from holdfast.adapters.stored import load_adapted
from holdfast.adapters.targets import target_modules
from holdfast.base import load_base
from holdfast.params.inventory import inventory
from tests.models import ARCHITECTURES, LAYERS, build, inputs

MLP = {"llama": 3, "qwen2": 3, "gpt2": 2, "gpt_neox": 2, "opt": 2, "bert": 2, "t5": 4}
"""Linear layers in the MLPs of a block; in a T5, of an encoder and a decoder block."""


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_linear_layer_of_every_mlp_gets_factors_and_nothing_else_trains(arch: str) -> None:
    model = build(arch)
    assert len(target_modules(model, "mlp")) == MLP[arch] * LAYERS
    before = model(**inputs()).logits.detach()
    wrapped = lora(model, rank=2).eval()
    trained = [param for param in inventory(wrapped) if param.trainable]
    assert len(trained) == 2 * MLP[arch] * LAYERS
    assert all(param.lora is not None and param.lora.scaling == 2.0 for param in trained)
    assert all(
        "mlp" in p.components for p in inventory(wrapped) if p.path in {t.lora.target for t in trained if t.lora}
    )
    torch.testing.assert_close(wrapped(**inputs()).logits, before, rtol=0, atol=1e-5)


def test_the_factors_follow_from_the_seed_and_no_other_random_state_moves() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(99)
        state = torch.get_rng_state()
        wrapped = lora(build("llama"), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([p.flatten() for n, p in wrapped.named_parameters() if "lora_A" in n])

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


def test_targets_are_a_selection_or_names() -> None:
    model = build("llama")
    assert target_modules(model, ["q_proj", "v_proj"]) == target_modules(model, '"*.q_proj.*" | "*.v_proj.*"')
    assert target_modules(model, "attention & layers(-1:)") == [
        f"model.layers.{LAYERS - 1}.self_attn.{name}_proj" for name in "qkvo"
    ]
    assert target_modules(model, ["layers.1.mlp.up_proj"]) == ["model.layers.1.mlp.up_proj"]


@pytest.mark.parametrize(
    ("targets", "error", "said"),
    [
        (["q_proj", "v_porj"], UnmatchedSelect, "'v_porj'.*v_proj"),
        ('"*.q_porj.*"', UnmatchedSelect, "q_proj"),
        ("mpl", BadInput, "nearest is mlp"),
        ("norm", BadInput, "no linear layer"),
        ([], BadInput, "nothing would train"),
    ],
)
def test_names_that_match_nothing_are_refused(targets: str | list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        lora(build("llama"), targets=targets)


@pytest.mark.parametrize("knob", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}])
def test_knobs_out_of_range_are_refused(knob: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="rank >= 1"):
        lora(build("llama"), **knob)  # type: ignore[arg-type]


def test_methods_are_found_by_name() -> None:
    assert {"full", "lora", "osf"} < set(methods.names()) and methods["full"] is full
    model = build("llama")
    model.requires_grad_(False)
    assert methods.build("full", {"model": model, "seed": 1}) is model
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_adapter_is_loaded_with_its_base(tmp_path: Path) -> None:
    base = load_base("tiny")
    wrapped = lora(base.model, rank=2)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(tmp_path / "adapter")
    batch = {"input_ids": torch.tensor([[1, 5, 9, 40]])}
    again = load_adapted(tmp_path / "adapter")
    assert torch.equal(again.model.eval()(**batch).logits, wrapped.eval()(**batch).logits)
    assert load_adapted("tiny").digest == base.digest != again.digest == load_adapted(tmp_path / "adapter").digest
    assert not any(p.requires_grad for p in again.model.parameters())
    learning = load_adapted(tmp_path / "adapter", trainable=True)
    trained = {name for name, p in learning.model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in learning.model.named_parameters() if "lora_" in name}
    (tmp_path / "adapter/adapter_model.safetensors").rename(tmp_path / "adapter/adapter_model.bin")
    with pytest.raises(BadInput, match=r"no adapter_model\.safetensors"):
        load_adapted(tmp_path / "adapter")
