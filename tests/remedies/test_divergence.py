"""Divergences are those of torch.distributions and of a plain loop; the k likeliest give the coarser one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from holdfast.remedies.divergence import DIRECTIONS, Likeliest, forward, likeliest, logits, reverse

TEACHER, MODEL = (torch.randn(6, 11, generator=torch.Generator().manual_seed(i)) * 2 for i in range(2))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_both_ways_are_the_divergences_of_torch(temperature: float) -> None:
    theirs, ours = (Categorical(logits=x / temperature) for x in (TEACHER, MODEL))
    assert torch.allclose(forward(TEACHER, MODEL, temperature), kl_divergence(theirs, ours), atol=1e-5)
    assert torch.allclose(reverse(TEACHER, MODEL, temperature), kl_divergence(ours, theirs), atol=1e-5)
    assert float((forward(TEACHER, MODEL, temperature) - reverse(TEACHER, MODEL, temperature)).abs().max()) > 0.05


def test_logits_differ_by_their_mean_square() -> None:
    expected = [sum((a - b) ** 2 for a, b in zip(t, m, strict=True)) / 11 for t, m in zip(TEACHER, MODEL, strict=True)]
    assert torch.allclose(logits(TEACHER, MODEL, 1.0), torch.stack(expected), atol=1e-5)
    assert torch.allclose(logits(likeliest(TEACHER, 11), MODEL, 1.0), torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("direction", sorted(DIRECTIONS))
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_whole_vocabulary_as_the_likeliest_is_exact(direction: str, temperature: float) -> None:
    measure = DIRECTIONS[direction]
    whole = measure(TEACHER, MODEL, temperature)
    assert torch.allclose(measure(likeliest(TEACHER, 11, temperature), MODEL, temperature), whole, atol=1e-5)
    assert torch.allclose(measure(likeliest(TEACHER, 99, temperature), MODEL, temperature), whole, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("k", [1, 4, 10])
def test_the_likeliest_and_all_others_are_k_and_one_outcomes(k: int, temperature: float) -> None:
    kept = likeliest(TEACHER, k, temperature)
    found = {"forward": forward(kept, MODEL, temperature), "reverse": reverse(kept, MODEL, temperature)}
    for row in range(6):
        places = TEACHER[row].topk(k).indices
        p, q = (coarse(x[row] / temperature, places) for x in (TEACHER, MODEL))
        assert float(found["forward"][row]) == pytest.approx(kl(p, q), abs=1e-5)
        assert float(found["reverse"][row]) == pytest.approx(kl(q, p), abs=1e-5)
        assert kl(p, q) <= float(forward(TEACHER, MODEL, temperature)[row]) + 1e-6


def coarse(scaled: Tensor, places: Tensor) -> list[float]:
    chances = torch.softmax(scaled.double(), 0)
    return [*chances[places].tolist(), 1 - float(chances[places].sum())]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("k", [3, 11])
def test_gradients_are_finite_where_the_others_have_no_mass(k: int) -> None:
    sure = torch.tensor([[60.0, 0.0, -1.0, *[-40.0] * 8]])
    model = sure.clone().requires_grad_()
    for measure in (forward, reverse):
        (gradient,) = torch.autograd.grad(measure(likeliest(sure, k), model, 1.0).sum(), model)
        assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) < 1e-5


def test_what_is_kept_is_the_mass_that_it_says() -> None:
    kept = likeliest(TEACHER, 4, 2.0)
    assert isinstance(kept, Likeliest) and kept.values.shape == (6, 4)
    whole = torch.logaddexp((kept.values / 2).logsumexp(-1), kept.rest)
    assert torch.allclose(whole, (TEACHER / 2).logsumexp(-1), atol=1e-5)
