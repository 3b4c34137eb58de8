"""The inventory of seven architectures against expectations written by hand, and of PEFT models against PEFT itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import peft
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from holdfast.params.inventory import COMPONENTS, Param, inventory
from holdfast.params.plan import from_config
from tests.models import ARCHITECTURES, build, config, lora

# Elements by component of three blocks: width 16, inner width 32, vocabulary 96, length 64, head width 8, one key head.
LLAMA = {
    "embedding": 96 * 16,
    "attention": 3 * (2 * 16 * 16 + 2 * 8 * 16),
    "mlp": 3 * (3 * 16 * 32),
    "norm": 3 * 2 * 16 + 16,
}
ELEMENTS = {
    "llama": LLAMA,
    "qwen2": LLAMA | {"attention": LLAMA["attention"] + 3 * (16 + 8 + 8)},
    "gpt2": {
        "embedding": (96 + 64) * 16,
        "attention": 3 * (16 * 48 + 48 + 16 * 16 + 16),
        "mlp": 3 * (16 * 32 + 32 + 32 * 16 + 16),
        "norm": 3 * 4 * 16 + 2 * 16,
    },
    "gpt_neox": {
        "embedding": 96 * 16,
        "attention": 3 * (16 * 48 + 48 + 16 * 16 + 16),
        "mlp": 3 * (16 * 32 + 32 + 32 * 16 + 16),
        "norm": 3 * 4 * 16 + 2 * 16,
    },
    "opt": {
        "embedding": 96 * 8 + (64 + 2) * 16 + 8 * 16,  # tokens in half the width, positions offset by 2, project_in
        "attention": 3 * 4 * (16 * 16 + 16),
        "mlp": 3 * (16 * 32 + 32 + 32 * 16 + 16),
        "norm": 3 * 4 * 16 + 2 * 16,
        "head": 16 * 8,  # project_out
    },
    "bert": {
        "embedding": (96 + 64 + 2) * 16,
        "attention": 3 * 4 * (16 * 16 + 16),
        "mlp": 3 * (16 * 32 + 32 + 32 * 16 + 16),
        "norm": 2 * 16 + 3 * 4 * 16 + 2 * 16,
        "head": 16 * 16 + 16 + 96,  # the transform and the bias, one tensor under two names
    },
    "t5": {
        "embedding": 96 * 16,
        "attention": 3 * 4 * 16 * 16 + 3 * 8 * 16 * 16 + 2 * 32 * 2,  # encoder, decoder twice, position biases
        "mlp": 6 * 2 * 16 * 32,
        "norm": 3 * 2 * 16 + 3 * 3 * 16 + 2 * 16,
    },
}
TIED = {
    "llama": [("model.embed_tokens.weight", "lm_head.weight")],
    "qwen2": [("model.embed_tokens.weight", "lm_head.weight")],
    "gpt2": [("transformer.wte.weight", "lm_head.weight")],
    "gpt_neox": [("gpt_neox.embed_in.weight", "lm_head.weight")],
    "opt": [("model.decoder.embed_tokens.weight", "lm_head.weight")],
    "bert": [
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ],
    "t5": [("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")],
}
TENSORS_PER_BLOCK = {"llama": 9, "qwen2": 12, "gpt2": 12, "gpt_neox": 12, "opt": 16, "bert": 16}


def by_component(params: list[Param]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for param in params:
        counts[param.component] += param.numel
    return dict(counts)


def named(params: list[Param]) -> dict[str, Param]:
    return {param.path: param for param in params}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_elements_by_component(arch: str) -> None:
    assert by_component(inventory(build(arch))) == ELEMENTS[arch]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_untied_head_is_a_parameter_of_its_own(arch: str) -> None:
    width = 8 if arch == "opt" else 16
    extra = 96 * width + (96 if arch == "bert" else 0)
    expected = ELEMENTS[arch] | {"head": ELEMENTS[arch].get("head", 0) + extra}
    params = inventory(build(arch, tied=False))
    assert by_component(params) == expected
    assert not any({"embedding", "head"} <= param.components for param in params)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_ties(arch: str) -> None:
    groups = [param.paths for param in inventory(build(arch)) if len(param.paths) > 1]
    assert groups == TIED[arch]
    embedding = named(inventory(build(arch)))[TIED[arch][0][0]]
    assert (embedding.component, embedding.components) == ("embedding", {"embedding", "head"})


@pytest.mark.parametrize("arch", sorted(TENSORS_PER_BLOCK))
def test_blocks_count_from_the_bottom(arch: str) -> None:
    params = inventory(build(arch))
    layers = Counter(param.layer for param in params if param.layer is not None)
    assert layers == dict.fromkeys(range(3), TENSORS_PER_BLOCK[arch])
    assert {param.n_layers for param in params} == {3}
    for param in params:
        numbers = [int(word) for word in param.path.split(".") if word.isdigit()]
        assert numbers == ([] if param.layer is None else [param.layer]), param.path
        assert (param.stack is None) == (param.layer is None)


def test_both_stacks_of_an_encoder_decoder_count_from_the_bottom() -> None:
    params = inventory(build("t5"))
    tensors = Counter((param.stack, param.layer) for param in params if param.layer is not None)
    assert tensors == {
        ("encoder.block", 0): 9,  # the lowest block holds the position bias of its stack
        ("encoder.block", 1): 8,
        ("encoder.block", 2): 8,
        ("decoder.block", 0): 14,
        ("decoder.block", 1): 13,
        ("decoder.block", 2): 13,
    }


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_values_agree_with_torch(arch: str) -> None:
    model = build(arch).to(torch.bfloat16)
    model.get_input_embeddings().weight.requires_grad_(False)
    params = inventory(model)
    assert [param.path for param in params] == [name for name, _ in model.named_parameters()]
    for param, tensor in zip(params, model.parameters(), strict=True):
        assert (param.shape, param.dtype, param.numel) == (tuple(tensor.shape), torch.bfloat16, tensor.numel())
        assert param.bytes == tensor.untyped_storage().nbytes()
        assert param.trainable == tensor.requires_grad
        assert param.component in param.components <= set(COMPONENTS)
        assert param.lora is None


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_meta_device_gives_the_same_inventory(arch: str) -> None:
    with torch.device("meta"):
        empty = build(arch)
    assert {tensor.device.type for tensor in empty.parameters()} == {"meta"}
    assert inventory(empty) == inventory(build(arch))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_bare_model_has_no_head(arch: str) -> None:
    with torch.device("meta"):
        params = inventory(AutoModel.from_config(config(arch)))
    assert "head" not in {c for param in params for c in param.components} - ({"head"} if arch == "opt" else set())
    assert max(param.n_layers for param in params) == 3


@pytest.mark.parametrize(("arch", "head"), [("llama", "score"), ("bert", "classifier"), ("t5", "classification_head")])
def test_the_head_of_a_classifier(arch: str, head: str) -> None:
    with torch.device("meta"):
        params = inventory(AutoModelForSequenceClassification.from_config(config(arch)))
    assert {param.path for param in params if param.component == "head"} == {
        param.path for param in params if param.path.startswith(f"{head}.")
    }


class MambaMixer(nn.Sequential):
    """Mixes tokens, as the module of that name does, without attention."""


def test_a_model_of_ones_own() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(10, 4)
            block = nn.ModuleDict({"attn": nn.Linear(4, 4), "inner": nn.Linear(4, 4), "scale": nn.LayerNorm(4)})
            other = nn.ModuleDict({"mixer": MambaMixer(nn.Linear(4, 4)), "inner": nn.Linear(4, 4)})
            self.blocks = nn.ModuleList([block, other])
            self.gate = nn.Parameter(torch.zeros(4))

    found = {param.path: (param.component, param.layer) for param in inventory(Own())}
    assert found["tokens.weight"] == ("embedding", None)
    assert found["blocks.0.attn.weight"] == ("attention", 0)
    assert found["blocks.1.inner.bias"] == ("mlp", 1)
    assert found["blocks.1.mixer.0.weight"] == ("other", 1)
    assert found["blocks.0.scale.weight"] == ("norm", 0)
    assert found["gate"] == ("other", None)


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("jamba", {"num_hidden_layers": 8}, {"embedding", "attention", "mlp", "norm", "head", "other"}),
        ("gpt_oss", {"num_hidden_layers": 1}, {"embedding", "attention", "mlp", "norm", "head"}),
        ("qwen3_moe", {"num_hidden_layers": 1}, {"embedding", "attention", "mlp", "norm", "head"}),
        ("gemma3_text", {"num_hidden_layers": 1}, {"embedding", "attention", "mlp", "norm"}),
        ("rwkv", {"num_hidden_layers": 1}, {"embedding", "attention", "mlp", "norm", "head"}),
        ("bart", {"encoder_layers": 1, "decoder_layers": 1}, {"embedding", "attention", "mlp", "norm"}),
        ("mamba", {"num_hidden_layers": 1}, {"embedding", "norm", "other"}),
    ],
)
def test_families_beyond_the_seven(family: str, settings: dict[str, int], expected: set[str]) -> None:
    params = inventory(from_config(AutoConfig.for_model(family, **settings)))
    assert {param.component for param in params} == expected
    other = [param.path for param in params if param.component == "other"]
    assert all("mamba" in path or "mixer" in path for path in other)
    assert len({param.stack for param in params if param.stack}) == (2 if family == "bart" else 1)


def test_a_sharded_model_has_the_same_names(tmp_path: Path) -> None:
    expected = inventory(build("llama"))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = build("llama")
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
        assert inventory(model) == expected
    finally:
        dist.destroy_process_group()


def test_experts_do_not_hide_the_blocks_they_are_in() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(8))

    model = nn.Module()
    model.blocks = nn.ModuleList(Block() for _ in range(2))
    assert {(param.stack, param.layer, param.n_layers) for param in inventory(model)} == {
        ("blocks", 0, 2),
        ("blocks", 1, 2),
    }


def test_what_lora_wraps_stays_what_it_was() -> None:
    params = inventory(build("lora"))
    base = [param for param in params if param.component != "adapter"]
    assert by_component(base) == ELEMENTS["llama"]
    assert [param.trainable for param in params] == [param.component == "adapter" for param in params]
    assert {param.layer for param in params if param.component == "adapter"} == {0, 1, 2}


def test_modules_that_peft_saves_whole_are_adapter_and_what_they_replace() -> None:
    model = lora(build("llama", tied=False), modules_to_save=["lm_head", "norm"])
    params = named(inventory(model))
    copy = params["base_model.model.lm_head.modules_to_save.default.weight"]
    assert (copy.component, copy.components, copy.trainable) == ("head", {"head", "adapter"}, True)
    original = params["base_model.model.lm_head.original_module.weight"]
    assert (original.component, original.components, original.trainable) == ("head", {"head"}, False)
    assert params["base_model.model.model.norm.modules_to_save.default.weight"].components == {"norm", "adapter"}


@pytest.mark.parametrize(
    "settings",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=4),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_learnt_prompts_are_adapter_outside_the_blocks(settings: peft.PeftConfig) -> None:
    params = inventory(peft.get_peft_model(build("llama"), settings))
    adapter = [param for param in params if param.component == "adapter"]
    assert adapter
    assert all(param.trainable and param.layer is None and param.lora is None for param in adapter)
    assert by_component([param for param in params if param.component != "adapter"]) == ELEMENTS["llama"]


@pytest.mark.parametrize(
    "settings",
    [
        peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        peft.VeraConfig(r=2, target_modules=["q_proj"]),
        peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10, tinit=1, tfinal=1),
        peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_layers=2, adapter_len=2),
        peft.LNTuningConfig(target_modules=["input_layernorm"]),
        peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[1, 2]),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_what_other_methods_add_is_adapter_and_nothing_else_is(settings: peft.PeftConfig) -> None:
    params = inventory(peft.get_peft_model(build("llama"), settings))
    assert all(param.component == "adapter" for param in params if param.trainable)
    assert by_component([param for param in params if param.component != "adapter"]) == ELEMENTS["llama"]
