"""What changed: each test against scipy, brute force or a sheet of paper, and verdicts by simulation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import scipy.stats
import torch

from holdfast._errors import BadInput
from holdfast.base import load_base
from holdfast.data.formats import read
from holdfast.data.rows import collate, encode
from holdfast.evaluation.alarm import alarm, lower_bound, spent
from holdfast.evaluation.change import (
    Change,
    change,
    detectable,
    holm,
    items_for,
    judged,
    mcnemar,
    permutation,
)
from holdfast.evaluation.metrics.likelihood import f1_of
from holdfast.evaluation.scored import Scored, shares
from holdfast.evaluation.statistics import Interval, mean_interval
from holdfast.evaluation.suites import load_suite

FEW = 400
"""Resamples in simulations."""


def drawn(n: int, rise: float, seed: int = 0, unit: str = "nats per token") -> tuple[Scored, Scored]:
    """Losses of texts of different lengths, before and after."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(20, 200, n).astype(float)
    before = tokens * draw.normal(2.0, 0.4, n)
    after = before + tokens * (rise + draw.normal(0, 0.05, n))
    pair = (Scored(np.stack([nats, tokens], axis=-1), unit=unit, higher=False) for nats in (before, after))
    return next(pair), next(pair)


def test_mcnemar_is_a_sum_of_coin_tosses() -> None:
    """Nine lost and two gained: twice the chance of at most two heads in eleven tosses."""
    assert mcnemar(9, 2) == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    for lost, gained in ((0, 5), (3, 3), (1, 14), (40, 22)):
        n, least = lost + gained, min(lost, gained)
        tail = sum(math.comb(n, i) for i in range(least + 1)) / 2**n
        assert mcnemar(lost, gained) == pytest.approx(min(1.0, 2 * tail))
        assert mcnemar(lost, gained) == mcnemar(gained, lost)
    assert mcnemar(0, 0) == 1.0


def test_answers_that_flipped_are_counted_either_way() -> None:
    before, after = shares([1, 1, 1, 0, 0, 1]), shares([0, 0, 1, 1, 0, 0])
    found = change(before, after)
    assert (found.lost, found.gained) == (3, 1)
    assert found.p == mcnemar(3, 1)
    assert found.worse.mean == pytest.approx(2 / 6)
    assert found.before.mean == pytest.approx(4 / 6)


def difference(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., 1] - sums[..., 0])


@pytest.mark.parametrize("n", [3, 8, 12])
def test_a_permutation_of_few_items_tries_all_ways(n: int) -> None:
    draw = np.random.default_rng(n)
    before, after = draw.normal(0, 1, n), draw.normal(0.5, 1, n)
    rises = after - before
    ways = [abs(sum(s * r for s, r in zip(signs, rises, strict=True))) for signs in product((1, -1), repeat=n)]
    expected = sum(way >= abs(rises.sum()) * (1 - 1e-9) for way in ways) / 2**n
    assert permutation(before[:, None], after[:, None], difference) == pytest.approx(expected)
    theirs = scipy.stats.permutation_test(
        (before, after), lambda a, b: a.mean() - b.mean(), permutation_type="samples", n_resamples=math.inf
    )
    assert permutation(before[:, None], after[:, None], difference) == pytest.approx(theirs.pvalue)


def test_a_permutation_of_many_items_is_that_of_scipy_up_to_chance() -> None:
    draw = np.random.default_rng(0)
    before = draw.normal(0, 1, 60)
    after = before + draw.normal(0.1, 0.4, 60)
    theirs = scipy.stats.permutation_test(
        (before, after), lambda a, b: a.mean() - b.mean(), permutation_type="samples", n_resamples=20000, rng=draw
    )
    ours = permutation(before[:, None], after[:, None], difference, resamples=20000)
    assert 0.01 < theirs.pvalue < 0.2
    assert ours == pytest.approx(theirs.pvalue, abs=0.01)


def test_holm_is_the_table_on_paper() -> None:
    """Sorted 0.005, 0.011, 0.02, 0.04, times 4, 3, 2, 1, and never less than the one before."""
    assert holm([0.02, 0.005, 0.04, 0.011]) == pytest.approx([0.04, 0.02, 0.04, 0.033])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("rise", "verdict"), [(0.05, "forgot"), (0.0, "kept"), (-0.05, "improved"), (0.012, "undecided")]
)
def test_verdicts_say_what_a_bound_says(rise: float, verdict: str) -> None:
    found = change(*drawn(120, rise))
    assert found.margin == 0.01
    assert found.verdict() == verdict
    assert judged({"only": found}) == {"only": verdict}


def test_many_suites_take_more_evidence_each() -> None:
    """A single rise that is forgotten for itself is not, among twenty."""
    found = change(*drawn(120, 0.029))
    assert 0.05 / 20 < found.p_beyond < 0.05
    others = {f"suite {i}": change(*drawn(40, 0.0, seed=i)) for i in range(1, 20)}
    assert found.verdict() == "forgot"
    assert judged({"one": found, **others})["one"] == "undecided"


def test_noise_of_measuring_raises_the_margin() -> None:
    pair = drawn(120, 0.05)
    assert change(*pair, noise=0.002).margin == 0.01
    noisy = change(*pair, noise=0.2)
    assert (noisy.margin, noisy.verdict()) == (0.2, "kept")
    assert change(*pair, margin=0.3).margin == 0.3


def test_a_loss_that_is_not_finite_is_forgotten() -> None:
    before, after = drawn(5, 0.0)
    after.stats[2, 0] = math.inf
    assert change(before, after).verdict() == "forgot"


def test_an_undecided_verdict_says_how_many_items_would_settle_it() -> None:
    pair = drawn(120, 0.012, seed=1)
    found = change(*pair)
    assert found.verdict() == "undecided"
    assert found.needs is not None
    room = abs(found.margin - found.worse.mean)
    assert found.needs == pytest.approx((1.645 * found.worse.spread / room) ** 2, rel=0.01)


def test_documents_are_resampled_whole() -> None:
    before, after = drawn(60, 0.0)
    numbers = tuple(i // 3 for i in range(60))
    parts = [Scored(side.stats, unit=side.unit, higher=False, documents=numbers) for side in (before, after)]
    whole = [Scored(side.stats.reshape(20, 3, 2).sum(1), unit=side.unit, higher=False) for side in (before, after)]
    found, expected = change(*parts), change(*whole)
    assert found.worse.n == 20
    assert (found.worse, found.p) == (expected.worse, expected.p)


def test_different_examples_or_measures_are_refused() -> None:
    with pytest.raises(BadInput, match="same examples twice"):
        change(shares([1, 0]), shares([1, 0, 1]))
    with pytest.raises(BadInput, match="same examples twice"):
        change(shares([1, 0]), shares([1, 0], unit="words"))


def test_macro_f1_pairs_models_that_name_different_classes() -> None:
    right, known = ["a", "b", "a"], ["a", "b", "c"]
    before, after = f1_of(right, ["a", "b", "b"], known), f1_of(right, ["c", "b", "a"], known)
    assert before.figure == f1_of(right, ["a", "b", "b"]).figure
    assert change(before, after).before.mean == pytest.approx(before.figure)
    assert change(before, after).after.mean == pytest.approx(after.figure)


def test_what_can_be_found_falls_with_the_root_of_the_items() -> None:
    assert detectable(0.5, 100) == pytest.approx((1.959964 + 0.841621) * 0.05)
    assert detectable(0.5, 400) == pytest.approx(detectable(0.5, 100) / 2)
    assert change(*drawn(50, 0.0)).detectable == pytest.approx(detectable(change(*drawn(50, 0.0)).worse.spread, 50))
    with pytest.raises(BadInput, match="Without items"):
        detectable(0.5, 0)
    with pytest.raises(BadInput, match="cannot be"):
        items_for(0.1, 0.05)


def looks(runs: int, seed: int) -> Iterator[list[Interval]]:
    """Thirty looks of a run at the same 80 items while the model wanders, its mean unmoved."""
    draw = np.random.default_rng(seed)
    for _ in range(runs):
        own = draw.normal(0, 0.05, 80)
        steps = [0.6 * own + draw.normal(0, 0.04, 80) for _ in range(30)]
        yield [mean_interval(step, resamples=50) for step in steps]


def test_the_error_of_all_looks_sums_up_to_what_may_be_spent() -> None:
    assert sum(spent(look) for look in range(1, 200_000)) == pytest.approx(0.05, rel=1e-4)
    assert spent(1, 0.1) == pytest.approx(0.6 / math.pi**2)


def test_an_alarm_needs_a_bound_beyond_the_margin() -> None:
    rise = mean_interval(np.random.default_rng(0).normal(0.1, 0.05, 50))
    bound = rise.mean - scipy.stats.t.ppf(1 - spent(3), 49) * rise.se
    assert lower_bound(rise, spent(3)) == pytest.approx(bound)
    found = alarm("stories", 40, 3, rise, bound - 1e-6)
    assert found is not None
    assert "At step 40" in str(found)
    assert "stories" in str(found)
    assert alarm("stories", 40, 3, rise, bound + 1e-6) is None


def test_one_item_gives_no_alarm_and_an_infinite_loss_gives_one() -> None:
    assert alarm("stories", 1, 1, mean_interval([9.0]), 0.01) is None
    assert alarm("stories", 1, 1, mean_interval([1.0, math.inf]), 0.01) is not None


# By simulation ------------------------------------------------------------------------------------------------------


def tilted(p: float, n: int, churn: float, drop: float, draw: np.random.Generator) -> tuple[Scored, Scored]:
    """Right and wrong answers of which a share `churn` flips, `drop` more of them for the worse."""
    fate = draw.choice(3, n, p=[(churn + drop) / 2, (churn - drop) / 2, 1 - churn])
    stays = (draw.random(n) < p).astype(float)
    before = np.where(fate == 0, 1.0, np.where(fate == 1, 0.0, stays))
    return shares(before), shares(np.where(fate == 0, 0.0, np.where(fate == 1, 1.0, stays)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ratio", "share", "macro F1"])
def test_intervals_of_a_change_hold_the_truth_as_often_as_they_say(kind: str) -> None:
    draw, runs, inside = np.random.default_rng(5), 1500, 0
    for i in range(runs):
        if kind == "ratio":
            (before, after), truth = drawn(200, 0.02, seed=i), 0.02
        elif kind == "share":
            (before, after), truth = tilted(0.7, 200, 0.2, 0.06, draw), 0.06
        else:
            right = draw.choice(["a", "b", "c"], 200, p=[0.5, 0.3, 0.2])
            before, after = (
                f1_of(list(right), list(np.where(draw.random(200) < p, right, draw.choice(["a", "b", "c"], 200))))
                for p in (0.8, 0.65)
            )
            truth = _f1_by_chance(0.8) - _f1_by_chance(0.65)
        worse = change(before, after, resamples=FEW, seed=i).worse
        inside += worse.low <= truth <= worse.high
    assert 0.93 <= inside / runs <= 0.97


def _f1_by_chance(p: float) -> float:
    """Macro F1 where an answer is right with probability p, else drawn evenly from three classes."""
    found = []
    for share in (0.5, 0.3, 0.2):
        hit, given = share * (p + (1 - p) / 3), share * p + (1 - p) / 3
        found.append(2 * hit / (share + given))
    return sum(found) / 3


@pytest.mark.slow
def test_no_change_on_ten_suites_is_called_forgotten_in_one_run_of_twenty() -> None:
    draw, wrong = np.random.default_rng(1), 0
    for run in range(200):
        changes = {
            f"suite {i}": change(*tilted(0.7, 150, 0.1, 0.0, draw), margin=0.0, resamples=200, seed=run)
            for i in range(10)
        }
        wrong += "forgot" in judged(changes).values()
    assert wrong / 200 <= 0.05


@pytest.mark.slow
def test_thirty_looks_without_a_change_alarm_in_at_most_one_run_of_twenty() -> None:
    alarmed = sum(
        any(alarm("stories", look, look, rise, 0.0) for look, rise in enumerate(run, 1)) for run in looks(200, 2)
    )
    naive = sum(any(lower_bound(rise, 0.05) > 0 for rise in run) for run in looks(200, 2))
    assert alarmed / 200 <= 0.05
    assert naive / 200 > 0.1


@pytest.mark.slow
def test_the_items_for_a_drop_find_it_four_times_in_five() -> None:
    draw, n = np.random.default_rng(3), items_for(0.02, 0.1)
    assert n == 1955
    found = []
    for _ in range(2000):
        first, second = tilted(0.7, n, 0.1, 0.02, draw)
        rises = first.stats[:, 0] - second.stats[:, 0]
        found.append(abs(rises.mean()) / (rises.std(ddof=1) / math.sqrt(n)) > 1.96)
    assert sum(found) / 2000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 60, 200])
def test_power_against_a_planted_rise_is_what_detectable_says(n: int) -> None:
    """A rise that `detectable` names is found four times in five by the two-sided test, whatever the size."""
    runs, hits, spread = 600, 0, 0.06
    rise = detectable(spread, n)
    draw = np.random.default_rng(n)
    for i in range(runs):
        values = draw.normal(rise, spread, n)
        hits += permutation(np.zeros((n, 1)), values[:, None], difference, resamples=FEW, seed=i) <= 0.05
    assert hits / runs == pytest.approx(0.8, abs=0.06)


@pytest.mark.slow
def test_a_planted_rise_of_three_percent_is_found_on_the_shipped_stories() -> None:
    """Stories of fluency-en with the spread that slight training leaves; a rise of log 1.03, a margin of 0.01.

    The chance to call it forgotten is that of a normal mean whose one-sided bound clears the margin.
    """
    base, suite = load_base("tiny"), load_suite("fluency-en")
    before = suite.score(base)
    torch.manual_seed(0)
    rows = [row for record in read("tiny/shakespeare") for row in encode(record, base.tokenizer, length=128)[0]][:32]
    optimizer = torch.optim.AdamW(base.model.parameters(), lr=1e-4)
    for at in range(0, 32, 8):
        batch = collate(rows[at : at + 8], 0)
        base.model(**batch).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    after = suite.score(base)
    found = change(before, after)
    own, tokens = (after.stats - before.stats)[:, 0], before.stats[:, 1]
    planted = own - tokens * own.sum() / tokens.sum() + tokens * math.log(1.03)
    draw, runs, hits = np.random.default_rng(0), 300, 0
    for i in range(runs):
        at = draw.integers(0, len(own), len(own))
        first = Scored(before.stats[at], unit=before.unit, higher=False)
        second = Scored(np.stack([first.stats[:, 0] + planted[at], tokens[at]], -1), unit=before.unit, higher=False)
        hits += change(first, second, resamples=200, seed=i).verdict() == "forgot"
    normal = scipy.stats.norm
    expected = float(normal.sf(normal.isf(0.05) - (math.log(1.03) - 0.01) / found.worse.se))
    print(f"spread {found.worse.spread:.4f}, n {found.worse.n}, detectable {found.detectable:.5f}: power {hits / runs}")
    assert found.detectable < math.log(1.03)
    assert hits / runs == pytest.approx(expected, abs=0.05)
    assert hits / runs >= 0.8


def test_a_change_of_interval_is_plain_data() -> None:
    interval = Interval(0.0, -1.0, 1.0, 0.8, 0.5, 4)
    assert Change(interval, interval, interval, 1.0, 0.01).verdict() == "undecided"
