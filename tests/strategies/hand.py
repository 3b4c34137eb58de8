"""Runs that are stepped by hand with gradients made up from a seed, so that many of them take no time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.rule import Rule
from holdfast.run import Run
from tests.models import build

RATE = 1e-2


def by_hand(rules: Sequence[Rule], optimizer: Any = torch.optim.SGD, lr: float = RATE, **options: Any) -> Run:
    """A run of a random Llama that has begun."""
    model = build("llama")
    run = Run(model, optimizer(model.parameters(), lr=lr, **options), rules, seed=3)
    run.begin()
    return run


def gradients(run: Run, seed: int) -> dict[str, Tensor]:
    """A random gradient for every tensor."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator) for name, t in run.tensors.items()}


def values(run: Run) -> dict[str, Tensor]:
    """A copy of all weights that train."""
    return {name: t.detach().clone() for name, t in run.tensors.items()}


def step(run: Run, seed: int) -> frozenset[str]:
    """Make one step and say which tensors moved."""
    before = values(run)
    run.advance(gradients=gradients(run, seed))
    return frozenset(name for name, value in values(run).items() if not torch.equal(value, before[name]))
