"""Rows to measure importance on, transformers' own loss of them, and how far two results are apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.models import VOCABULARY

Batch = dict[str, Tensor]
TWO_SIDED = ("BertForMaskedLM", "T5ForConditionalGeneration", "AlbertForMaskedLM")


def full(count: int, length: int = 8) -> Batch:
    """Random rows [count, length], all of which is learnt from."""
    ids = torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids.clone()}


def rows(count: int = 5, length: int = 9) -> Batch:
    """Random rows of unlike length, padded on the right, with a prompt of two tokens that is not learnt from."""
    batch = full(count, length)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["labels"][:, :2] = -100
    for row in range(1, count):
        end = max(4, length - row)
        batch["input_ids"][row, end:], batch["attention_mask"][row, end:], batch["labels"][row, end:] = 0, 0, -100
    return batch


def split(batch: Batch, size: int) -> list[Batch]:
    return [{k: v[i : i + size] for k, v in batch.items()} for i in range(0, len(batch["input_ids"]), size)]


def summed(model: Any, batch: Batch) -> Tensor:
    """transformers' mean loss times the number of tokens it is the mean of."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    all_count = type(inner).__name__ in TWO_SIDED or isinstance(getattr(model, "prompt_encoder", None), nn.ModuleDict)
    labels = batch["labels"] if all_count else batch["labels"][:, 1:]
    return model(**batch).loss * labels.ne(-100).sum()


def error(ours: dict[str, Tensor], theirs: dict[str, Tensor], floor: float = 1e-9) -> float:
    """The largest difference in any tensor, relative to the largest value in that tensor.

    Tensors that are zero but for rounding (a key's bias cancels in the softmax) count against `floor` of the largest;
    for what is not squared that has to be larger.
    """
    assert list(ours) == list(theirs)
    least = floor * max(float(t.max()) for t in theirs.values())
    return max(float((ours[n] - t).abs().max()) / max(float(t.max()), least) for n, t in theirs.items())
