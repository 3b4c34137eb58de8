"""L2-SP holds weights back, more with more strength, and on LoRA the product."""

from __future__ import annotations

import pytest
import torch

from holdfast._errors import BadInput
from holdfast.remedies.l2sp import L2SP
from holdfast.run import Run
from tests.models import build
from tests.test_every_rule import batches, started


def moved(run: Run) -> float:
    """|change| of the weights, or of the LoRA products."""
    total = 0.0
    for name, param in run.params.items():
        if param.lora is None:
            total += float((run.tensors[name] - run.base.values[name]).square().sum())
        elif param.lora.side == "B":
            now = run.tensors[name] @ run.tensors[param.lora.partner]
            then = run.base.values[name] @ run.base.values[param.lora.partner]
            total += float((param.lora.scaling * (now - then)).square().sum())
    return total**0.5


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_more_strength_moves_less(kind: str) -> None:
    distances = []
    for strength in (0.0, 10.0, 100.0, 1e4):
        run = started(kind, [L2SP(strength)])
        for batch in batches(8):
            run.advance(batch)
        distances.append(moved(run))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.3 * distances[0]


def test_one_step_of_sgd_is_the_gradient_step_and_then_the_proximal_one() -> None:
    model = build("llama")
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.05), [L2SP(30.0)])
    run.begin()
    batch = batches(1)[0]
    loss = run.model.eval()(**batch).loss
    gradients = dict(zip(run.tensors, torch.autograd.grad(loss, list(run.tensors.values())), strict=True))
    before = {n: p.detach().clone() for n, p in run.tensors.items()}
    run.advance(gradients=gradients)
    a = 0.05 * 30.0
    for name, start in before.items():
        stepped = start - 0.05 * gradients[name]
        assert torch.allclose(run.tensors[name], (stepped + a * start) / (1 + a), atol=1e-6)


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(BadInput, match="must not be negative"):
        L2SP(-1.0)
