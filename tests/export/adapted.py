"""Adapters in folders beside their random bases, as PEFT itself writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import IA3Config, LoraConfig, PeftConfig

from holdfast.base import load_base
from tests.characters import base_folder, stirred

MLP = ["gate_proj", "up_proj", "down_proj"]
CONFIGS: dict[str, tuple[str, PeftConfig]] = {
    "llama": ("llama", LoraConfig(r=2, target_modules=MLP)),
    "gpt2": ("gpt2", LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)),
    "t5": ("t5", LoraConfig(r=2, target_modules=["q", "v", "wo"], task_type="SEQ_2_SEQ_LM")),
    "dora": ("llama", LoraConfig(r=2, target_modules=MLP, use_dora=True)),
    "rslora": ("qwen2", LoraConfig(r=4, target_modules=MLP, use_rslora=True)),
    "ia3": ("llama", IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])),
}
"""Adapters that can be merged, by name: the architecture and the settings."""


def adapter_folder(folder: Path, name: str = "llama", *, config: Any = None, std: float = 0.1, **base: Any) -> Path:
    """`folder/adapter`, trained (so to speak) from `folder/base`."""
    arch, known = CONFIGS[name]
    start = load_base(base_folder(folder / "base", arch, **base)).model
    stirred(start, config or known, std).save_pretrained(folder / "adapter")
    return folder / "adapter"
