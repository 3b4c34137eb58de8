"""Intervals against scipy, by simulation, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast._errors import BadInput
from holdfast.evaluation import statistics
from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.statistics import Interval, bootstrap, mean_interval, needed, paired, resolvable


def ratio(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(sums.sum(axis=axis) / sizes.sum(axis=axis))


def sample(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Skewed rises over sequences of different lengths."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(20, 130, n).astype(float)
    return sizes * (draw.lognormal(-4, 1, n) - 0.01), sizes


def losses(total: object, tokens: object) -> SequenceLosses:
    return SequenceLosses(torch.as_tensor(total, dtype=torch.float64), torch.as_tensor(tokens, dtype=torch.int64))


@pytest.mark.parametrize("n", [12, 60, 260])
def test_bounds_are_those_of_scipy_on_the_same_resamples(n: int) -> None:
    sums, sizes = sample(n)
    options = {"paired": True, "n_resamples": 999, "method": "BCa", "confidence_level": 0.95}
    theirs = scipy.stats.bootstrap((sums, sizes), ratio, **options, rng=np.random.default_rng(1))
    below = scipy.stats.bootstrap(
        (sums, sizes), ratio, **{**options, "n_resamples": 0}, alternative="less", bootstrap_result=theirs
    )
    drawn = np.sort(theirs.bootstrap_distribution)
    mean = float(ratio(sums, sizes))
    low, high, upper = statistics._bca(drawn, mean, (sums.sum() - sums) / (sizes.sum() - sizes), (0.025, 0.975, 0.95))
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-9)
    assert upper == pytest.approx(below.confidence_interval.high, rel=1e-9)


def test_resampling_is_that_of_scipy_up_to_chance() -> None:
    sums, sizes = sample(200)
    theirs = scipy.stats.bootstrap((sums, sizes), ratio, paired=True, n_resamples=20_000, rng=np.random.default_rng(1))
    ours = bootstrap(sums, sizes, resamples=20_000)
    width = ours.high - ours.low
    assert ours.mean == pytest.approx(float(ratio(sums, sizes)))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.04 * width)
    assert ours.se == pytest.approx(theirs.standard_error, rel=0.03)


def test_the_interval_is_reproducible_and_seeded() -> None:
    sums, sizes = sample(50)
    assert bootstrap(sums, sizes) == bootstrap(sums, sizes)
    assert bootstrap(sums, sizes) != bootstrap(sums, sizes, seed=1)


def test_blocks_of_resamples_are_only_a_matter_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sums, sizes = sample(30)
    whole = bootstrap(sums, sizes, resamples=100)
    monkeypatch.setattr(statistics, "DRAWS", 30 * 7)
    assert bootstrap(sums, sizes, resamples=100) == whole


def test_paired_is_token_weighted_and_takes_the_noise_of_texts_out() -> None:
    draw = np.random.default_rng(0)
    tokens = draw.integers(50, 130, 200)
    before = tokens * draw.normal(2.0, 0.5, 200)
    after = before + tokens * draw.normal(0.01, 0.02, 200)
    rise = paired(losses(before, tokens), losses(after, tokens))
    assert rise.mean == pytest.approx(float((after - before).sum() / tokens.sum()))
    assert rise.low < rise.mean < rise.upper < rise.high
    assert rise.n == 200
    unpaired = math.hypot(mean_interval(before / tokens).se, mean_interval(after / tokens).se)
    assert rise.se < unpaired / 10


def test_sequences_without_scored_tokens_do_not_count() -> None:
    before, after = losses([3.0, 0.0, 4.0], [2, 0, 2]), losses([3.5, 0.0, 4.1], [2, 0, 2])
    rise = paired(before, after)
    assert rise.n == 2
    assert rise.mean == pytest.approx(0.6 / 4)


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(BadInput, match="same rows scored twice"):
        paired(losses([1.0, 2.0], [1, 1]), losses([1.0, 2.0], [1, 2]))
    with pytest.raises(BadInput, match="same rows scored twice"):
        paired(losses([1.0], [1]), losses([1.0, 2.0], [1, 1]))
    with pytest.raises(BadInput, match="before is not finite"):
        paired(losses([math.nan], [1]), losses([1.0], [1]))
    with pytest.raises(BadInput, match="nothing to average"):
        paired(losses([0.0], [0]), losses([0.0], [0]))


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_infinite_rise(lost: float) -> None:
    rise = paired(losses([1.0, 2.0, 3.0], [1, 1, 1]), losses([1.0, lost, 3.0], [1, 1, 1]))
    assert rise.mean == rise.upper == math.inf


def test_one_item_says_nothing_of_the_spread() -> None:
    assert mean_interval([0.3]) == Interval(0.3, -math.inf, math.inf, math.inf, math.inf, 1)


@pytest.mark.parametrize("value", [0.0, 0.3, -1e-9])
def test_items_that_agree_leave_no_doubt(value: float) -> None:
    found = mean_interval([value] * 20)
    assert (found.low, found.high, found.upper, found.se) == (found.mean, found.mean, found.mean, 0.0)
    assert found.mean == pytest.approx(value)
    same = paired(losses([2.0, 3.0], [2, 3]), losses([2.0, 3.0], [2, 3]))
    assert (same.mean, same.upper, same.se) == (0.0, 0.0, 0.0)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_bounds_are_ordered_and_within_the_items(values: list[float]) -> None:
    found = mean_interval(values, resamples=200)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - slack <= found.low <= found.upper + slack <= found.high + 2 * slack <= max(values) + 3 * slack
    assert found.se >= 0


def test_unscored_items_are_left_out() -> None:
    assert mean_interval([1.0, math.nan, 2.0]) == mean_interval([1.0, 2.0])
    with pytest.raises(BadInput, match="nothing to average"):
        mean_interval([math.nan])


@pytest.mark.parametrize("options", [{"level": 0.0}, {"level": 1.0}, {"resamples": 0}])
def test_impossible_levels_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="0 < level < 1"):
        mean_interval([1.0, 2.0], **options)  # type: ignore[arg-type]


def test_the_bound_holds_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    truth, runs = math.exp(0.125), 600
    found = [mean_interval(draw.lognormal(0, 0.5, 80), resamples=400, seed=i) for i in range(runs)]
    above = sum(interval.upper >= truth for interval in found) / runs
    inside = sum(interval.low <= truth <= interval.high for interval in found) / runs
    assert 0.9 < above < 0.98  # 0.93 to 0.94 in long simulations: a bootstrap of skewed items is a little bold
    assert 0.9 < inside < 0.98


def test_how_many_sequences_it_takes() -> None:
    assert resolvable(0.08, 260) == pytest.approx(0.00816, abs=1e-5)
    assert needed(0.08, 0.008) == 271
    assert needed(0.08, resolvable(0.08, 260)) == 260
    assert needed(0.0, 0.1) == 2
    values = np.random.default_rng(0).normal(0, 0.08, 4000)
    interval = mean_interval(values)
    assert interval.spread == pytest.approx(0.08, rel=0.1)
    assert interval.upper - interval.mean == pytest.approx(resolvable(interval.spread, 4000), rel=0.1)


def test_what_cannot_be_resolved_is_refused() -> None:
    with pytest.raises(BadInput, match="has to be positive"):
        needed(0.1, 0.0)
    with pytest.raises(BadInput, match="spread is not known"):
        needed(math.inf, 0.1)
    with pytest.raises(BadInput, match="Without items"):
        resolvable(0.1, 0)


def test_parts_of_one_document_are_resampled_together() -> None:
    sums, sizes = sample(60)
    owners = np.repeat(np.arange(20), 3)
    before = SequenceLosses(torch.zeros(60, dtype=torch.float64), torch.tensor(sizes).long())
    after = SequenceLosses(torch.tensor(sums), before.tokens, torch.tensor(owners))
    whole = [np.bincount(owners, part) for part in (sums, before.tokens.numpy())]
    assert paired(before, after) == bootstrap(*whole)
    assert paired(before, after).n == 20
    alike = SequenceLosses(torch.tensor(np.repeat(sums[:20], 3)), torch.full((60,), 50), torch.tensor(owners))
    flat = SequenceLosses(torch.zeros(60, dtype=torch.float64), alike.tokens)
    apart = paired(flat, SequenceLosses(alike.total, alike.tokens))
    assert paired(flat, alike).se == pytest.approx(apart.se * 3**0.5, rel=0.1)


@pytest.mark.parametrize("n", [6, 12])
def test_bounds_from_few_items_hold_about_as_often_as_they_say(n: int) -> None:
    draw = np.random.default_rng(0)
    found = [mean_interval(draw.normal(0, 1, n), resamples=400, seed=i).upper >= 0 for i in range(800)]
    assert 0.93 < sum(found) / 800 < 0.98
