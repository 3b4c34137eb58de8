"""EWC holds back what the old text depends on, by the true per-example Fisher information."""

from __future__ import annotations

import pytest
import torch

from holdfast._errors import BadInput
from holdfast.data.rows import collate
from holdfast.remedies.ewc import EWC
from tests.test_every_rule import ROWS, batches, started


def test_importance_is_the_mean_square_of_per_example_gradients_with_mean_one() -> None:
    rule = EWC(ROWS[:6], samples=5, batch_size=2)
    run = started("llama", [rule])
    model = run.model.eval()
    squares = {n: torch.zeros_like(p) for n, p in run.tensors.items()}
    for row in ROWS[:5]:
        batch = collate([row], 0)
        loss = model(**batch).loss * (len(row["labels"]) - 1)
        for name, gradient in zip(squares, torch.autograd.grad(loss, list(run.tensors.values())), strict=True):
            squares[name] += gradient.square() / 5
    mean = sum(float(s.sum()) for s in squares.values()) / sum(s.numel() for s in squares.values())
    for name, expected in squares.items():
        assert torch.allclose(rule.importance[name], expected / mean, rtol=1e-4, atol=1e-6)


def test_on_lora_the_importance_belongs_to_the_weight_that_the_product_is_added_to() -> None:
    rule = EWC(ROWS[:4])
    run = started("lora", [rule])
    targets = {p.lora.target for p in run.params.values() if p.lora}
    assert set(rule.importance) == targets
    shapes = {n: tuple(p.shape) for n, p in run.model.named_parameters()}
    assert all(tuple(rule.importance[t].shape) == shapes[t] for t in targets)


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_important_weights_move_less_than_under_an_even_pull(kind: str) -> None:
    weighed = []
    for strength in (0.0, 1e3):
        rule = EWC(ROWS[:8], strength)
        run = started(kind, [rule])
        importance = dict(rule.importance)
        for batch in batches(6):
            run.advance(batch)
        total = 0.0
        for name, param in run.params.items():
            if param.lora is None:
                drift, path = run.tensors[name] - run.base.values[name], name
            elif param.lora.side == "B":
                now = run.tensors[name] @ run.tensors[param.lora.partner]
                drift = now - run.base.values[name] @ run.base.values[param.lora.partner]
                path = param.lora.target
            else:
                continue
            total += float((importance[path] * drift.square()).sum())
        weighed.append(total)
    assert weighed[1] < 0.5 * weighed[0]


def test_without_rows_it_says_so() -> None:
    with pytest.raises(BadInput, match="no rows"):
        EWC([])
