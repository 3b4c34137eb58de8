"""What the tests of the guides' trainers share: arguments of a short run, rows, and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import TrainingArguments

from holdfast.data.rows import Row
from tests.models import VOCABULARY, config

ROWS: list[Row] = [
    {"input_ids": ids, "labels": list(ids)}
    for ids in torch.randint(3, VOCABULARY, (12, 8), generator=torch.Generator().manual_seed(5)).tolist()
]
NEW = [{"text": f"The moon is made of cheese, said sailor number {i}."} for i in range(16)]
OLD = [{"text": f"Once upon a time there was a little dog who liked to play, and he was {i}."} for i in range(16)]


def small() -> transformers.LlamaForCausalLM:
    """A random model of three narrow blocks that reads what the small base's tokenizer writes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = {**config("llama").to_dict(), "vocab_size": 512, "max_position_embeddings": 128}
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**given)).eval()


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    """A few steps of plain SGD on the CPU, in the order of the rows."""
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    return TrainingArguments(**{**given, **more})


def values(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}
