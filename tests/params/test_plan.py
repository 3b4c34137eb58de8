"""The freeze plan against brute force: bytes of real tensors, of a real AdamW after a step, and of files on disk."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import BertConfig, LlamaConfig, PretrainedConfig, T5Config, ViTConfig

from holdfast._errors import BadInput, UnmatchedSelect
from holdfast.params.inventory import inventory
from holdfast.params.plan import Cost, Plan, freeze, from_config, plan, render_plan
from holdfast.params.select import Select, component, everything, layers, parse, path
from tests.models import ARCHITECTURES, build, config, inputs, lora, quickly

SELECTIONS = ["embedding", "attention", "layers(67%)", '"*.[01].*"', "layers(0:2) & ~mlp | head"]
# A T5 config always ties, so a head parted by hand is not saved.
SAVEABLE = [(arch, tied) for arch in ARCHITECTURES for tied in (True, False) if tied or arch != "t5"]


def nbytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def after_a_step(model: torch.nn.Module) -> tuple[Cost, torch.optim.Optimizer]:
    """What weights, gradients and AdamW's state really take after one step of whatever still trains."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
    model(**inputs()).loss.backward()
    optimizer.step()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    return Cost(nbytes(model.parameters()), nbytes(gradients), nbytes(state)), optimizer


@pytest.mark.parametrize("text", SELECTIONS)
@pytest.mark.parametrize("arch", quickly(["llama", "t5"], ARCHITECTURES))
def test_freezing_saves_the_gradient_and_optimiser_bytes_that_the_plan_says(arch: str, text: str) -> None:
    select = parse(text)
    planned = plan(build(arch), select)
    assert after_a_step(build(arch))[0] == planned.cost_before

    model = build(arch)
    frozen = freeze(model, select)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    cost, optimizer = after_a_step(model)
    assert cost == planned.cost == frozen.cost
    assert planned.cost.total < planned.cost_before.total
    still = {param.path for param in planned.matched}
    for name, value in model.named_parameters():
        assert (name in still) == (value.grad is None) == (value not in optimizer.state)
        assert (name in still) == torch.equal(value, before[name])


@pytest.mark.parametrize("arch", quickly(["llama", "t5", "lora"], [*ARCHITECTURES, "lora"]))
def test_counts(arch: str) -> None:
    model = build(arch)
    planned = plan(model, component("embedding") | layers(0, 1))
    values = dict(model.named_parameters())
    expected = [p for p in inventory(model) if p.layer == 0 or "embedding" in p.components]
    assert list(planned.matched) == expected
    assert planned.count == sum(value.numel() for value in values.values())
    still = {p.path for p in expected} | {name for name, value in values.items() if not value.requires_grad}
    assert planned.frozen_count == sum(values[name].numel() for name in still)
    assert planned.share == planned.frozen_count / planned.count
    assert [p.path for p in planned.trained] == [name for name in values if name not in still]


def test_an_adapter_trains_alone() -> None:
    planned = plan(build("lora"))
    assert {p.component for p in planned.trained} == {"adapter"}
    assert after_a_step(build("lora"))[0] == planned.cost == planned.cost_before
    assert plan(build("lora"), component("mlp")).cost == planned.cost


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("arch", "tied"), SAVEABLE)
def test_saved_bytes_are_those_on_disk(arch: str, tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build(arch, tied=tied).to(dtype)
    model.save_pretrained(tmp_path)
    assert plan(model).saved_bytes == data_bytes(tmp_path / "model.safetensors")


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}])
def test_saved_bytes_of_an_adapter(settings: dict[str, Any], tmp_path: Path) -> None:
    model = lora(build("llama", tied=False), **settings)
    model.save_pretrained(tmp_path)
    planned = plan(model, component("attention"))
    assert planned.adapter_only
    assert planned.saved_bytes == data_bytes(tmp_path / "adapter_model.safetensors")


def data_bytes(file: Path) -> int:
    """Bytes of tensors in a safetensors file: all but the length word and the header that it measures."""
    content = file.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize(
    ("select", "frozen_layers"),
    [(layers("40%"), {0}), (layers("80%"), {0, 1}), (layers(1, 2), {1}), (path("*.layers.2.*"), {2})],
)
def test_freezing_by_number_share_and_pattern(select: Select, frozen_layers: set[int]) -> None:
    model = build("llama")
    freeze(model, select)
    assert {p.layer for p in inventory(model) if not p.trainable} == frozen_layers


def test_freezing_lets_go_of_gradients() -> None:
    model = build("llama")
    model(**inputs()).loss.backward()
    freeze(model, component("mlp"))
    assert all((p.grad is None) == (".mlp." in name) for name, p in model.named_parameters())


def test_planning_changes_nothing_and_neither_does_a_failed_freeze() -> None:
    model = build("llama")
    plan(model, everything)
    with pytest.raises(UnmatchedSelect, match=r"Did you mean"):
        freeze(model, component("mlp") | path("*.q_porj.*"))
    assert all(p.requires_grad for p in model.parameters())


def test_everything_may_be_frozen() -> None:
    planned = plan(build("llama"), everything)
    assert (planned.share, planned.trained, planned.cost.gradients, planned.cost.optimizer) == (1.0, [], 0, 0)


def test_a_plan_needs_an_inventory_only() -> None:
    model = build("gpt2")
    assert plan(inventory(model), component("mlp")) == plan(model, component("mlp"))


def test_seventy_billion_parameters_take_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    llama = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )
    model = from_config(llama)
    planned = plan(model, component("embedding") | layers("50%"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
    block = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
    total = 2 * 128256 * 8192 + 80 * block + 8192
    trained = 128256 * 8192 + 40 * block + 8192
    assert planned.count == total == 70_553_706_496
    assert planned.frozen_count == total - trained
    assert planned.cost == Cost(4 * total, 4 * trained, 8 * trained + 4 * (40 * 9 + 2))
    assert planned.saved_bytes == 4 * total
    assert plan(from_config(llama, dtype=torch.bfloat16)).saved_bytes == 2 * total


@pytest.mark.parametrize("arch", quickly(["llama", "t5"], ARCHITECTURES))
def test_from_config_gives_the_inventory_of_the_model(arch: str) -> None:
    model = build(arch)
    assert model.config.architectures is None
    bare = inventory(from_config(config(arch)))
    model.config.architectures = [type(model).__name__]
    empty = from_config(model.config)
    assert type(empty) is type(model)
    assert inventory(empty) == inventory(model)
    assert [p.path for p in bare] == [p.path for p in inventory(model)]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (BertConfig(num_hidden_layers=1), "BertLMHeadModel"),
        (T5Config(num_layers=1), "T5ForConditionalGeneration"),
        (BertConfig(num_hidden_layers=1, architectures=["BertForMaskedLM"]), "BertForMaskedLM"),
        (LlamaConfig(num_hidden_layers=1, architectures=["logging"]), "LlamaForCausalLM"),
    ],
)
def test_the_class_of_a_config(settings: PretrainedConfig, name: str) -> None:
    assert type(from_config(settings)).__name__ == name


def test_a_config_without_a_language_model() -> None:
    with pytest.raises(BadInput, match=r"No language model can be built from a ViTConfig"):
        from_config(ViTConfig(architectures=None))


def rendered(planned: Plan) -> str:
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    render_plan(planned, console)
    return console.export_text()


def test_rendered() -> None:
    text = rendered(plan(build("llama"), parse('embedding | "*.q_proj.*"')))
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "8,560 parameters, 6,256 train (73.1%), 26.9% frozen" in lines
    assert "embedding (tied to the head) 1 1,536 17.9% 100%" in lines
    assert "attention 12 2,304 26.9% 33%" in lines
    assert 'embedding | "*.q_proj.*" matches 4 tensors, shown here as frozen' in lines
    assert "Embedding and head are one tensor in this model: what freezes one freezes both." in lines
    assert "model.layers.*.self_attn.q_proj.weight 3 768" in lines
    assert "gradients 34.2 kB 25.0 kB 9.2 kB" in lines
    assert "saved model 34.2 kB 34.2 kB" in lines


def test_one_matched_tensor_is_a_tensor_and_a_head_of_its_own_is_not_remarked_on() -> None:
    text = rendered(plan(build("llama", tied=False), parse("head")))
    assert "head matches 1 tensor, shown here as frozen" in text
    assert "one tensor" not in text


def test_rendered_without_a_selection() -> None:
    text = rendered(plan(build("lora")))
    assert "saved adapter" in text
    assert "matched" not in text
    assert "frozen as planned" not in text
