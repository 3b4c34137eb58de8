"""Drift of behaviour against scipy, against a full divergence, and where nothing moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from holdfast.base import load_base
from holdfast.data.formats import Completion
from holdfast.evaluation.drift import Behaviour, behaviour, jensen_shannon, output_drift, style_drift

PROMPTS = [Completion(f"Once upon a time, there was a {name}", "") for name in ("cat", "dog", "girl", "bear", "tree")]


def known() -> Behaviour:
    return behaviour(load_base("tiny"), PROMPTS * 4, longest=12)


def test_jensen_shannon_is_that_of_scipy() -> None:
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 9, (6, 2, 5)).astype(float)
    expected = [jensenshannon(one, other, base=2) ** 2 for one, other in counts]
    np.testing.assert_allclose(jensen_shannon(counts.reshape(6, 10)), expected, atol=1e-12)
    assert jensen_shannon(np.array([1.0, 0.0, 0.0, 3.0])) == pytest.approx(1.0)


def test_a_model_that_did_not_move_does_not_drift_beyond_its_noise() -> None:
    found = known()
    same = load_base("tiny")
    assert output_drift(found, same).mean == 0.0
    style = style_drift(found, same, longest=12)
    assert all(drift.divergence.mean < 2 * drift.noise + 0.1 for drift in style.values())


def test_the_rise_on_what_the_base_wrote_is_its_divergence() -> None:
    """The sampled estimate of KL(base || tuned) against the sum over the vocabulary at the same places.

    So it has to be scored on the very tokens that were drawn: as text, an answer may lose the blank before it.
    """
    found, tuned, base = known(), load_base("tiny"), load_base("tiny")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.15 * parameter.std() * torch.randn_like(parameter) if parameter.dim() > 1 else 0.0)
    divergences = []
    for row in found.rows:
        ids = torch.tensor([row["input_ids"]])
        scored = torch.tensor(row["labels"][1:]) != -100
        with torch.no_grad():
            mine, theirs = (m.model(input_ids=ids).logits[0, :-1].double().log_softmax(-1) for m in (base, tuned))
        divergences += (mine.exp() * (mine - theirs)).sum(-1)[scored].tolist()
    drift = output_drift(found, tuned)
    assert drift.mean > 0.01
    assert drift.low <= np.mean(divergences) <= drift.high


def test_answers_that_say_something_else_are_told_apart() -> None:
    found = known()
    other = load_base("tiny")
    with torch.no_grad():
        other.model.lm_head.weight.mul_(0.2)
    style = style_drift(found, other, longest=12)
    assert style["vocabulary"].divergence.low > style["vocabulary"].noise
