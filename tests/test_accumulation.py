"""Four micro-batches of four rows make the step that one batch of sixteen makes, whatever the model's loss averages."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from holdfast.adapters.head import classifier
from holdfast.byhand import backward
from holdfast.data.rows import Row, collate
from holdfast.rule import Rule
from holdfast.run import Run
from holdfast.training import Trainer
from tests.models import build

WEIGHTS = [0.25, 3.0, 1.0]
KINDS = ("causal", "classifier", "weighted", "pairs", "masked")


def model(kind: str) -> Any:
    if kind in ("classifier", "weighted"):
        return classifier(build("llama"), ["a", "b", "c"], weights=WEIGHTS if kind == "weighted" else None)
    return build({"causal": "llama", "pairs": "t5", "masked": "bert"}[kind])


def rows(kind: str) -> list[Row]:
    """Sixteen rows, the later ones longer, so that micro-batches hold very different numbers of tokens."""
    draw = random.Random(0)
    made: list[Row] = []
    for i in range(16):
        ids = [draw.randrange(3, 96) for _ in range(3 + i)]
        answers = {"pairs": {"target": ids[: 1 + i]}, "causal": {"labels": ids}, "masked": {"labels": ids}}
        made.append({"input_ids": ids, **answers.get(kind, {"label": [0 if i < 4 else draw.randrange(3)]})})
    return made


def trained(kind: str, size: int, folder: Path, rules: tuple[Rule, ...] = ()) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss that one step of plain SGD over all rows logs, and the weights after it."""
    args = TrainingArguments(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=16 // size,
        learning_rate=0.1, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, logging_steps=1, use_cpu=True,
        save_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    made = model(kind)
    trainer = Trainer(
        model=made, args=args, train_dataset=rows(kind), data_collator=partial(collate, pad_id=0), rules=list(rules)
    )
    trainer.train()
    return trainer.state.log_history[0]["loss"], dict(made.state_dict())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_accumulated_steps_are_those_of_one_batch(kind: str, size: int, tmp_path: Path) -> None:
    whole_loss, whole = trained(kind, 16, tmp_path / "a")
    loss, parts = trained(kind, size, tmp_path / "b")
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert not torch.equal(whole[next(iter(whole))], model(kind).state_dict()[next(iter(whole))])
    for name, value in whole.items():
        assert torch.allclose(parts[name], value, atol=1e-5), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_of_ones_own_gets_the_same_gradients(kind: str) -> None:
    found = []
    for size in (16, 4):
        made = model(kind)
        run = Run(made, torch.optim.SGD(made.parameters(), lr=0.1), [])
        run.begin()
        given = rows(kind)
        backward(run, run.batch([collate(given[i : i + size], 0) for i in range(0, 16, size)]))
        found.append({name: p.grad for name, p in made.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])
