"""Isolation by the guide's names: figures returned are right, and adapters do not touch each other or the base."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from holdfast._errors import BadInput, UnknownName, UnmatchedSelect
from holdfast.llm import ParallelAdapterManager, apply_lora_adapter, freeze_model_components, freeze_model_layers
from tests.llm.training import ROWS, arguments, values
from tests.models import ARCHITECTURES, LAYERS, build, inputs, quickly


def trainable(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("arch", quickly(["llama", "t5"], ARCHITECTURES))
def test_every_architecture_freezes_and_says_what_is_left(arch: str) -> None:
    model = build(arch, tied=False)
    same, frozen, left = freeze_model_layers(model, freeze_layers_ratio=0.7)
    assert same is model and frozen == int(LAYERS * 0.7) and left == trainable(model) > 0
    same, left = freeze_model_components(model, freeze_attention=True, freeze_mlp=True)
    assert same is model and left == trainable(model)


def test_what_the_guide_prints_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "holdfast"):
        model = freeze_model_layers(build("llama"), 0.7)[0]
        freeze_model_components(model)
        apply_lora_adapter(build("llama"))
    total = sum(p.numel() for p in model.parameters())
    assert "冻结了 2/3 层 (比例: 0.70)" in caplog.messages
    assert any(line.startswith("可训练参数量: ") and f" / {total:,} (" in line for line in caplog.messages)
    assert "组件冻结配置:\n  - 冻结注意力层: True\n  - 冻结MLP层: False\n  - 冻结嵌入层: True" in caplog.messages
    assert any(line.startswith("LoRA适配器配置:\n  - 秩(r): 8\n  - 缩放因子(alpha): 16") for line in caplog.messages)


@pytest.mark.parametrize(("arch", "leaf"), [("llama", "q_proj"), ("gpt2", "c_attn")])
def test_lora_goes_where_attention_is(arch: str, leaf: str) -> None:
    model, left = apply_lora_adapter(build(arch))
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert left == trainable(model) > 0 and all("lora_" in n for n in names) and any(f".{leaf}." in n for n in names)
    assert model.peft_config["default"].lora_alpha == 16 and model.peft_config["default"].lora_dropout == 0.05


def test_lora_takes_names_and_selections() -> None:
    for targets in (["up_proj", "down_proj"], "mlp"):
        model, _ = apply_lora_adapter(build("llama"), lora_r=2, target_modules=targets)
        assert {n.split(".")[-4] for n, p in model.named_parameters() if p.requires_grad} >= {"up_proj", "down_proj"}
    with pytest.raises(UnmatchedSelect, match="nearest"):
        apply_lora_adapter(build("llama"), target_modules=["q_prj"])


def manager(**more: Any) -> ParallelAdapterManager:
    configs = {
        "medicine": LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
        "law": LoraConfig(r=4, target_modules=["up_proj"]),
        **more,
    }
    return ParallelAdapterManager(build("llama"), configs)


def of(found: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {path: value for path, value in found.items() if f".{name}." in path}


def test_training_one_adapter_leaves_the_others_and_the_base_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "holdfast"):
        adapters = manager()
        before = values(adapters.adapters["law"])
        trainer = adapters.train_adapter("law", ROWS, arguments(tmp_path, learning_rate=1.0))
    moved = {name for name, value in values(trainer.model).items() if not torch.equal(value, before[name])}
    assert moved and moved <= set(of(before, "law"))
    assert adapters.active_adapter == "law" and trainer.state.global_step == 3
    for line in ("创建适配器: medicine", "已激活适配器: law", "开始训练适配器: law"):
        assert line in caplog.messages


def test_the_active_adapter_alone_speaks(tmp_path: Path) -> None:
    adapters, plain, batch = manager(), build("llama"), inputs()
    adapters.train_adapter("law", ROWS, arguments(tmp_path, learning_rate=1.0))
    base = plain(**batch).logits
    assert adapters.adapters["law"] is adapters.adapters["medicine"]
    assert not torch.equal(adapters.activate_adapter("law").eval()(**batch).logits, base)
    assert torch.equal(adapters.activate_adapter("medicine").eval()(**batch).logits, base)


@pytest.mark.parametrize("name", ["law", "default"])
def test_what_was_saved_comes_back(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"default": LoraConfig(r=2, target_modules=["down_proj"])}
    adapters = manager(**more)
    adapters.train_adapter(name, ROWS, arguments(tmp_path, learning_rate=1.0))
    with caplog.at_level(logging.INFO, "holdfast"):
        adapters.save_adapter(name, tmp_path / "saved")
        assert (tmp_path / "saved" / name / "adapter_model.safetensors").is_file()
        assert {p.name for p in (tmp_path / "saved").iterdir()} <= {name, "README.md"}
        fresh = manager(**more)
        model = fresh.load_adapter(name, tmp_path / "saved")
    assert fresh.active_adapter == name
    kept, found = values(adapters.adapters[name]), values(model)
    assert all(torch.equal(kept[path], found[path]) for path in of(kept, name))
    assert f"适配器 {name} 已保存到 {tmp_path / 'saved' / name}" in caplog.messages
    fresh.train_adapter(name, ROWS, arguments(tmp_path, learning_rate=1.0))
    assert any(not torch.equal(kept[path], values(model)[path]) for path in of(kept, name))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    adapters = manager()
    for call in (adapters.activate_adapter, lambda name: adapters.save_adapter(name, tmp_path)):
        with pytest.raises(UnknownName, match="Did you mean 'law'"):
            call("lav")
    with pytest.raises(BadInput, match="holds no adapter"):
        adapters.load_adapter("law", tmp_path)
    with pytest.raises(BadInput, match="at least one adapter"):
        ParallelAdapterManager(build("llama"), {})
    with pytest.raises(UnmatchedSelect, match="No linear layer"):
        manager(code=LoraConfig(target_modules=["w_proj"]))


def test_adapters_are_the_same_every_time() -> None:
    torch.manual_seed(1)
    one = values(manager().adapters["law"])
    torch.manual_seed(2)
    two = values(manager().adapters["law"])
    assert all(torch.equal(one[path], two[path]) for path in one)
