"""Isolation by the guide's names: what is frozen, what LoRA adds, and several adapters on one base."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from holdfast._errors import BadInput, UnknownName
from holdfast.adapters.lora import lora
from holdfast.adapters.several import AdapterSet
from holdfast.adapters.targets import target_modules
from holdfast.llm.trainers import TextTrainer
from holdfast.params.freezing import freeze_components, freeze_layers
from holdfast.params.inventory import inventory

logger = logging.getLogger(__name__)

USUAL = ("q_proj", "v_proj")
"""What gets LoRA factors where nothing is named; all attention where there are no layers of these names."""


def freeze_model_layers(model: nn.Module, freeze_layers_ratio: float = 0.7) -> tuple[nn.Module, int, int]:
    """Freeze the embedding and the lowest blocks; the model, the number of blocks frozen, the elements left to train.

    Works on any architecture, see `holdfast.params.freezing.freeze_layers`; raises BadInput for a ratio outside [0, 1].
    """
    frozen, left = freeze_layers(model, freeze_layers_ratio)
    blocks = max((p.n_layers for p in inventory(model)), default=0)
    logger.info("冻结了 %d/%d 层 (比例: %.2f)", frozen, blocks, freeze_layers_ratio)
    logger.info(_trainable(model))
    return model, frozen, left


def freeze_model_components(
    model: nn.Module, freeze_attention: bool = True, freeze_mlp: bool = False, freeze_embeddings: bool = True
) -> tuple[nn.Module, int]:
    """Freeze all attention, all MLPs, all embeddings, each if asked; the model, and the elements left to train.

    Works on any architecture, see `holdfast.params.freezing.freeze_components`.
    """
    left = freeze_components(model, freeze_attention, freeze_mlp, freeze_embeddings)
    logger.info(
        "组件冻结配置:\n  - 冻结注意力层: %s\n  - 冻结MLP层: %s\n  - 冻结嵌入层: %s",
        freeze_attention, freeze_mlp, freeze_embeddings,
    )  # fmt: skip
    logger.info(_trainable(model))
    return model, left


def apply_lora_adapter(
    model: PreTrainedModel,
    lora_r: int = 8,
    lora_alpha: float = 16,
    target_modules: str | Sequence[str] | None = None,
    lora_dropout: float = 0.05,
    *,
    seed: int = 0,
) -> tuple[PeftModel, int]:
    """Add LoRA factors to linear layers; the wrapped model, and the elements that train.

    `target_modules` are names of layers or a selection as text (`mlp`, `attention & layers(50%:)`); None: `q_proj` and
    `v_proj`, or all attention in models without layers of these names. Errors as for `holdfast.adapters.lora.lora`.
    """
    targets = _usual(model) if target_modules is None else target_modules
    wrapped = lora(model, rank=lora_r, alpha=lora_alpha, targets=targets, dropout=lora_dropout, seed=seed)
    logger.info(
        "LoRA适配器配置:\n  - 秩(r): %s\n  - 缩放因子(alpha): %s\n  - 目标模块: %s\n  - Dropout: %s",
        lora_r, lora_alpha, targets, lora_dropout,
    )  # fmt: skip
    logger.info(_trainable(wrapped))
    return wrapped, sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


class ParallelAdapterManager:
    """Several LoRA adapters on one base, of which one is active; training one leaves the others and the base alone.

    `adapter_configs` maps names to peft's `LoraConfig`. `base_model` is not copied, but gets all adapters; `adapters`
    maps each name to the one wrapped model, `active_adapter` is the name of the active one (None before the first
    `activate_adapter`). Factors are drawn from `seed`. Raises BadInput for no adapters at all, UnmatchedSelect for a
    target that names no layer.
    """

    def __init__(self, base_model: PreTrainedModel, adapter_configs: Mapping[str, LoraConfig], *, seed: int = 0):
        if not adapter_configs:
            raise BadInput("Name at least one adapter: adapter_configs={'name': LoraConfig(...)}.")
        self.base_model, self.adapter_configs = base_model, dict(adapter_configs)
        self.active_adapter: str | None = None
        self.adapters: dict[str, PeftModel] = {}
        for config in self.adapter_configs.values():
            if config.target_modules is not None and not isinstance(config.target_modules, str):
                target_modules(base_model, list(config.target_modules))
        self._all = AdapterSet(base_model, seed=seed)
        for name, config in self.adapter_configs.items():
            logger.info("创建适配器: %s", name)
            self.adapters[name] = self._all.add(name, config)

    def activate_adapter(self, adapter_name: str) -> PeftModel:
        """Let this adapter alone speak, and be the one that trains; the model. Raises UnknownName."""
        model = self._all.activate(adapter_name)
        self.active_adapter = adapter_name
        logger.info("已激活适配器: %s", adapter_name)
        return model

    def train_adapter(
        self, adapter_name: str, train_dataset: Any, training_args: TrainingArguments, **kwargs: Any
    ) -> TextTrainer:
        """Train one adapter, which is then active, and return its trainer; `kwargs` as for `TextTrainer`."""
        trainer = TextTrainer(self.activate_adapter(adapter_name), training_args, train_dataset=train_dataset, **kwargs)
        logger.info("开始训练适配器: %s", adapter_name)
        trainer.train()
        return trainer

    def save_adapter(self, adapter_name: str, save_dir: str | Path) -> None:
        """Write one adapter to `save_dir`/`adapter_name`, in PEFT's layout (safetensors). Raises UnknownName."""
        folder = Path(save_dir) / adapter_name
        self._all.save(adapter_name, folder)
        logger.info("适配器 %s 已保存到 %s", adapter_name, folder)

    def load_adapter(self, adapter_name: str, load_dir: str | Path) -> PeftModel:
        """Put the weights in `load_dir`/`adapter_name` in the place of an adapter's own, make it active; the model.

        Raises UnknownName for an adapter that has no configuration here, BadInput where the folder holds none.
        """
        if adapter_name not in self.adapters:
            raise UnknownName("adapter", adapter_name, self.adapters)
        folder = Path(load_dir) / adapter_name
        self._all.load(adapter_name, folder)
        logger.info("适配器 %s 已从 %s 加载", adapter_name, folder)
        return self.activate_adapter(adapter_name)


def _usual(model: nn.Module) -> str | list[str]:
    leaves = {path.rpartition(".")[2] for path, _ in model.named_modules()}
    return list(USUAL) if leaves >= set(USUAL) else "attention"


def _trainable(model: nn.Module) -> str:
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    left, total = sum(n for n, free in counts if free), sum(n for n, _ in counts)
    return f"可训练参数量: {left:,} / {total:,} ({left / total:.2%})"
