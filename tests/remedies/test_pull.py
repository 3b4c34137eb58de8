"""Pulls against brute-force minimisation of the objective they claim to minimise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast.remedies.pull import pull
from holdfast.rule import Move
from tests.test_every_rule import started


def minimised(objective: object, start: Tensor) -> Tensor:
    """Newton steps by autograd: exact in one for a quadratic, three against rounding."""
    x = start.clone().double()
    for _ in range(3):
        flat = x.flatten()
        shape = x.shape
        f = lambda v, shape=shape: objective(v.view(shape))  # type: ignore[operator]  # noqa: E731
        gradient = torch.autograd.functional.jacobian(f, flat)
        hessian = torch.autograd.functional.hessian(f, flat)
        x = (flat - torch.linalg.solve(hessian, gradient)).view_as(x)
    return x


def move_of(run: object, path: str, after: Tensor, partner: Tensor | None = None) -> Move:
    return Move(run.params[path], after, None, partner, 0.1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("weight", [1e-3, 1.0, 1e6])
def test_a_pull_minimises_its_objective(weight: float, weighted: bool) -> None:
    torch.manual_seed(0)
    run = started("llama", [])
    path = next(iter(run.params))
    after, anchor = torch.randn(5, 4), torch.randn(5, 4)
    importance = torch.rand(5, 4) * 2 if weighted else None
    factor = (torch.ones(5, 4) if importance is None else importance).double()

    def objective(x: Tensor) -> Tensor:
        near = (x - after.double()).square().sum()
        return 0.5 * near + 0.5 * weight * (factor * (x - anchor.double()).square()).sum()

    expected = minimised(objective, after)
    pull(move_of(run, path, after), {path: anchor}, weight, importance)
    assert torch.allclose(after.double(), expected, atol=2e-5)


def test_a_pull_is_exact_at_its_anchor_and_at_weight_zero() -> None:
    run = started("llama", [])
    path = next(iter(run.params))
    anchor, importance = torch.randn(300, 1000), torch.rand(300, 1000)
    after = anchor.clone()
    pull(move_of(run, path, after), {path: anchor}, 0.37, importance)
    assert torch.equal(after, anchor)
    elsewhere = torch.randn(300, 1000)
    for values in (None, importance):
        after = elsewhere.clone()
        pull(move_of(run, path, after), {path: anchor}, 0.0, values)
        assert torch.equal(after, elsewhere)


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_factor_of_a_product_minimises_the_distance_of_the_product(side: str, weighted: bool) -> None:
    torch.manual_seed(1)
    run = started("lora", [])
    path = next(n for n, p in run.params.items() if p.lora and p.lora.side == side)
    lora = run.params[path].lora
    assert lora is not None
    a, b = torch.randn(2, 7), torch.randn(5, 2)
    a0, b0 = torch.randn(2, 7), torch.randn(5, 2)
    own, other = (a, b) if side == "A" else (b, a)
    own0, other0 = (a0, b0) if side == "A" else (b0, a0)
    importance = torch.rand(5, 7) if weighted else None
    factor = (torch.ones(5, 7) if importance is None else importance).double()
    weight, start = 0.8, own.clone().double()

    def product(x: Tensor) -> Tensor:
        return lora.scaling * (b.double() @ x if side == "A" else x @ a.double())

    def objective(x: Tensor) -> Tensor:
        drift = product(x) - lora.scaling * (b0 @ a0).double()
        return 0.5 * (x - start).square().sum() + 0.5 * weight * (factor * drift.square()).sum()

    expected = minimised(objective, own)
    pull(move_of(run, path, own, other), {path: own0, lora.partner: other0}, weight, importance)
    assert torch.allclose(own.double(), expected, atol=1e-4)
    assert objective(own.double()) <= objective(start)
