"""MAS holds back what the model's answers depend on, whatever the labels say."""

from __future__ import annotations

import pytest
import torch

from holdfast._errors import BadInput
from holdfast.remedies.mas import MAS
from tests.test_every_rule import ROWS, started


def test_importance_is_the_mean_absolute_gradient_of_the_squared_answers() -> None:
    rule = MAS(ROWS[:6], samples=5, batch_size=2)
    run = started("llama", [rule])
    model = run.model.eval()
    total = {n: torch.zeros_like(p) for n, p in run.tensors.items()}
    for row in ROWS[:5]:
        squares = model(input_ids=torch.tensor([row["input_ids"]])).logits.square().sum()
        for name, gradient in zip(total, torch.autograd.grad(squares, list(run.tensors.values())), strict=True):
            total[name] += gradient.abs()
    mean = sum(float(t.sum()) for t in total.values()) / sum(t.numel() for t in total.values())
    for name, expected in total.items():
        assert torch.allclose(rule.importance[name], expected / mean, rtol=1e-4, atol=1e-5)


def test_labels_do_not_count() -> None:
    blank = [{**row, "labels": [-100] * len(row["labels"])} for row in ROWS[:4]]
    one, other = MAS(ROWS[:4]), MAS(blank)
    started("llama", [one])
    started("llama", [other])
    assert all(torch.equal(one.importance[n], other.importance[n]) for n in one.importance)


def test_without_rows_it_says_so() -> None:
    with pytest.raises(BadInput, match="no rows"):
        MAS([])
