"""New rows beside every kind of method: they train, are saved, and the method finds the embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from holdfast.adapters.method import methods
from holdfast.adapters.rows import let_train
from holdfast.vocabulary.rows import counted_as_before, new_rows
from tests.vocabulary.test_rows import BOUNDARY, NEW, batch, extended

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2},
    "adalora": {"rank": 2, "steps": 20},
    "bottleneck": {"size": 4},
    "ia3": {},
    "ln": {},
    "prompt": {},
    "ptuning": {},
    "ptuning2": {},
    "shira": {"rank": 2},
    "full": {},
    "rows": {},
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", SETTINGS)
def test_rows_train_beside_a_method(name: str, tied: bool, tmp_path: Path) -> None:
    model: Any = let_train(methods.apply(name, extended("llama", tied=tied), SETTINGS[name], seed=1))
    out = model.train()(**batch())
    assert out.logits.shape[-1] == BOUNDARY + NEW == model.config.vocab_size
    out.loss.backward()
    assert all(rows.grad is not None and rows.grad.any() for rows in new_rows(model).values())
    with counted_as_before(model):
        assert model.config.vocab_size == 96
        if hasattr(model, "peft_config"):
            model.save_pretrained(tmp_path)
    if (file := tmp_path / "adapter_model.safetensors").is_file():
        with safe_open(file, framework="pt") as held:
            assert not [key for key in held.keys() if "embed_tokens" in key or "lm_head" in key]  # noqa: SIM118


def test_a_batch_without_new_tokens_leaves_their_reading_alone() -> None:
    model: Any = extended("llama", tied=False)
    methods.apply("rows", model, {})
    ids = batch()["input_ids"].clamp(max=BOUNDARY - 1)
    model(input_ids=ids, labels=ids).loss.backward()
    read, scored = (rows.grad for rows in new_rows(model).values())
    assert not read.any() and torch.isfinite(scored).all() and scored.any()
