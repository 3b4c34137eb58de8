"""Random models in the shape of known ones, for what has to be measured at their size."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.initialization import no_init_weights


def qwen(blocks: int, **more: Any) -> Qwen2Config:
    """Qwen2.5-0.5B, or its first blocks."""
    shape = {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
             "num_key_value_heads": 2, "tie_word_embeddings": True,
             "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}  # fmt: skip
    return Qwen2Config(num_hidden_layers=blocks, **{**shape, **more})


def random_qwen(blocks: int, device: str) -> Any:
    """Such a model with random weights, made in a moment."""
    torch.manual_seed(0)
    with no_init_weights(), torch.device(device):
        model = Qwen2ForCausalLM(qwen(blocks))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(float("norm" in name)) if p.ndim == 1 else p.uniform_(-0.035, 0.035)
    return model
