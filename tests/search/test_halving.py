"""Fronts against the definition and against Optuna's own; promotion against a computation by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank

from holdfast.search.halving import Objectives, crowding, foretold, fronts, knee, order, promoted, rungs, volume


def dominates(a: Objectives, b: Objectives) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def drawn(seed: int, n: int, objectives: int) -> list[Objectives]:
    """Points on a coarse grid, so that some are alike."""
    return [tuple(map(float, row)) for row in np.random.default_rng(seed).integers(0, 6, (n, objectives))]


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_fronts_are_peeled_off_one_by_one(seed: int, objectives: int) -> None:
    points = drawn(seed, 25, objectives)
    left, expected, place = set(range(25)), [-1] * 25, 0
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in front:
            expected[i] = place
        left, place = left - front, place + 1
    assert fronts(points) == expected
    assert fronts(points) == _fast_non_domination_rank(np.asarray(points)).tolist()


def test_no_points_have_no_fronts() -> None:
    assert fronts([]) == [] and order([]) == []


def test_the_order_goes_by_front_and_then_by_the_distance_to_the_budget() -> None:
    points = [(-1.0, 0.0), (-2.0, 0.019), (-3.0, 0.5), (-1.5, 0.02)]  # the last is beaten by the second
    assert order(points, limit=0.02) == [1, 0, 2, 3]
    assert order(points, limit=0.6) == [2, 1, 0, 3]
    assert order(points) == [0, 2, 1, 3]  # the ends of the front have most room


def test_crowding_sums_the_sides_of_the_box_between_neighbours() -> None:
    points = [(0.0, 4.0), (1.0, 2.0), (3.0, 1.0), (4.0, 0.0)]
    assert crowding(points) == [math.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, math.inf]


@pytest.mark.parametrize("seed", range(4))
def test_the_volume_is_optunas(seed: int) -> None:
    points = [(-x, y) for x, y in drawn(seed, 12, 2)]
    inside = np.asarray([p for p in points if p[0] < 0 and p[1] < 4.5])
    assert volume(points, (0.0, 4.5)) == pytest.approx(compute_hypervolume(inside, np.array([0.0, 4.5])))


def test_the_knee_bulges_most() -> None:
    assert knee([(-3.0, 3.0), (-2.7, 0.6), (-1.0, 0.3), (0.0, 0.0)]) == 1
    assert knee([(-3.0, 3.0), (-1.0, 0.0)]) == 0 and knee([(-1.0, 2.0)]) == 0


def test_a_budget_as_a_short_run_meets_it() -> None:
    assert foretold(0.02, 1 / 9, [0.5, 0.25, 0.3]) == pytest.approx(0.02 * 0.3)
    assert foretold(0.02, 1 / 9, [math.nan, -1.0]) == pytest.approx(0.02 / 9)  # nothing is known
    assert foretold(0.02, 1 / 3, [0.001]) == pytest.approx(0.02 / 9) and foretold(0.02, 1 / 3, [7.0]) == pytest.approx(
        0.06
    )
    assert foretold(0.02, 1.0, [1.0]) == 0.02


def test_candidates_go_up_as_computed_by_hand() -> None:
    """Seven candidates beside the default; two places on the next rung while more come, three when none do."""
    limits = [0.01, 0.02, 0.03]
    lowest: dict[int, list[Objectives]] = {
        0: [(-1.0, 0.005), (-1.5, 0.01), (-2.0, 0.02)],
        1: [(-1.1, 0.009)],  # front, nearest to the budget
        2: [(-0.9, 0.006)],  # beaten by the default
        3: [(-0.5, 0.001)],  # front
        4: [(-2.0, 0.3)],  # front, far outside
        5: [(-1.05, 0.02)],  # beaten by 1
        6: [(-1.2, 0.013)],  # front, next to 1
        7: [(-0.1, 0.5)],
    }
    default = frozenset({0})
    assert promoted(lowest, 3, limits, outside=default) == (1, 1)
    lowest[1].append((-1.6, 0.02))
    assert promoted(lowest, 3, limits, outside=default) == (6, 1)
    lowest[6].append((-1.7, 0.04))
    assert promoted(lowest, 3, limits, outside=default) is None
    assert promoted(lowest, 3, limits, outside=default, more=False) == (1, 2)  # one of two, rounded up
    lowest[1].append((-2.1, 0.03))
    assert promoted(lowest, 3, limits, outside=default, more=False) == (3, 1)
    assert promoted(lowest, 3, limits, outside=default, more=False, failed=frozenset({3})) is None


def test_rungs_of_few_steps_are_fewer() -> None:
    assert rungs(300) == [33, 100, 300] and rungs(3) == [1, 3] and rungs(1) == [1]
