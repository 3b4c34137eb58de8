"""Adaptive: reacts to trends in time, not to noise, and never leaves its bounds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast._errors import BadInput
from holdfast.evaluation.loss import sequence_losses
from holdfast.params.importance import fisher, per_tensor, ranks
from holdfast.params.inventory import Param, inventory
from holdfast.strategies.adaptive import Adaptive, trend
from tests.models import build
from tests.strategies.hand import RATE, by_hand, gradients, values
from tests.test_every_rule import ROWS, batches, started

PARAM: Param = inventory(build("llama"))[0]


def rates(rule: Adaptive, metric: list[float], base: float = 1e-4) -> list[float]:
    """The rate of each step, with one value of the metric observed after it."""
    run: Any = type("Still", (), {"step": 1, "loss": None})
    applied = []
    for value in metric:
        applied.append(rule.rate(run, PARAM, base))
        rule.after(run)
        rule.observe(value)
    return [*applied, rule.rate(run, PARAM, base)]


slopes = st.floats(1e-3, 10.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 12), slopes, slopes, st.integers(3, 120), st.booleans(), st.booleans(), st.floats(1e-6, 1e-3))
def test_it_turns_within_a_window_of_a_change_of_trend(
    window: int, steep: float, back: float, long: int, better: bool, higher: bool, base: float
) -> None:
    sign = (1 if better else -1) * (1 if higher else -1)
    away = [sign * steep * i for i in range(max(long, window))]
    home = [away[-1] - sign * back * (i + 1) for i in range(window)]
    applied = rates(Adaptive(window=window, higher_is_better=higher), away + home, base)
    assert (applied[len(away)] - base) * (1 if better else -1) >= 0
    turned = [(after - now) * (1 if better else -1) < 0 for now, after in itertools.pairwise(applied[len(away) :])]
    assert any(turned)
    assert all(1e-6 <= rate <= 1e-3 for rate in applied)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), max_size=40), st.floats(0, 1), st.booleans())
def test_bounds_hold_whatever_the_metric_and_the_schedule(metric: list[float], base: float, higher: bool) -> None:
    applied = rates(Adaptive(1e-5, 1e-2, window=3, up=3.0, down=0.2, higher_is_better=higher), metric, base)
    assert all(1e-5 <= rate <= 1e-2 for rate in applied)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([5, 10, 50]))
def test_noise_alone_does_not_run_away(seed: int, window: int) -> None:
    noise = np.random.default_rng(seed).normal(size=400).tolist()
    applied = rates(Adaptive(window=window), noise)
    assert all(1e-4 / 5 < rate < 1e-4 * 5 for rate in applied)


def test_a_small_steady_rise_moves_it_and_a_standstill_brings_it_back() -> None:
    rule = Adaptive(higher_is_better=True, maximum=1.0)
    risen = rates(rule, [0.5 + 0.009 * i for i in range(20)])[-1]
    assert risen > 2e-4
    still = rates(rule, [0.7] * 300)
    assert still[-1] < still[10] and still[-1] == pytest.approx(1e-4, rel=0.05)


def test_direction_is_what_is_said() -> None:
    falling = [1.0 - 0.01 * i for i in range(10)]
    assert rates(Adaptive(), falling)[-1] > 1e-4 > rates(Adaptive(higher_is_better=True), falling)[-1]


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=30))
def test_trends_are_those_of_a_t_test_of_the_slope(heights: list[float]) -> None:
    spread = float(np.ptp(heights))
    if spread < 1e-3:
        return
    fit = stats.linregress(range(len(heights)), heights)
    if abs(fit.pvalue - 0.05) > 1e-6:
        assert trend(heights) == (int(np.sign(fit.slope)) if fit.pvalue < 0.05 else 0)


def test_without_a_metric_it_follows_the_training_loss_and_says_what_it_applied() -> None:
    rule = Adaptive(1e-6, 1.0, window=3)
    run = started("llama", [rule])
    assert math.isnan(rule.learning_rate)
    losses = []
    for batch in batches(5):
        expected = 1e-2 * rule.factor
        losses.append(run.advance(batch))
        assert rule.learning_rate == pytest.approx(expected)
    assert rule.state()["values"] == pytest.approx(losses[-3:])


def test_a_source_gives_its_mean_loss_every_few_steps() -> None:
    rule = Adaptive(source=ROWS[:4], every=2)
    run = started("llama", [rule])
    seen = []
    for number, batch in enumerate(batches(4), start=1):
        run.advance(batch)
        if number % 2 == 0:
            seen.append(sequence_losses(run.model, ROWS[:4]).mean())
    assert rule.state()["values"] == pytest.approx(seen)


def test_the_more_important_a_tensor_the_lower_its_rate() -> None:
    rule = Adaptive(0.0, 1.0, source=ROWS[:4], importance="fisher", least=0.25)
    run = by_hand([rule])
    rank = ranks(per_tensor(fisher(run.model, [{k: torch.tensor([r[k] for r in ROWS[:4]]) for k in ROWS[0]}])))
    before, made = values(run), gradients(run, 0)
    run.advance(gradients=made)
    for name, value in values(run).items():
        assert torch.allclose(before[name] - value, RATE * 0.25 ** rank[name] * made[name], atol=1e-7)
    given_ = Adaptive(0.0, 1.0, importance={"model.norm.weight": 2.0, "model.embed_tokens.weight": 1.0})
    given_.begin(run)
    assert given_.prepared()["shares"] == {"model.norm.weight": 0.1, "model.embed_tokens.weight": 1.0}


@pytest.mark.parametrize("given_", [{"minimum": 1.0}, {"window": 2}, {"up": 0.5}, {"every": 0}, {"source": []}])
def test_what_cannot_be_is_said(given_: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Adaptive(**given_)
    with pytest.raises(BadInput, match="not both"):
        Adaptive(metric=lambda run: 0.0, source=ROWS)
    with pytest.raises(BadInput, match="nan"):
        Adaptive().observe(math.nan)
