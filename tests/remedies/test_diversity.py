"""Figures of variety, on rows where they can be counted by hand."""

from __future__ import annotations

import math

import pytest
from scipy.stats import entropy

from holdfast.data.rows import Row
from holdfast.remedies.diversity import diversity, spread


def row(*ids: int) -> Row:
    return {"input_ids": list(ids), "labels": list(ids)}


def test_the_figures_are_those_counted_by_hand() -> None:
    found = diversity([row(1, 2, 1, 2), row(3, 1, 2, 2), row(1, 2, 1, 2)])
    assert (found.rows, found.tokens, found.vocabulary) == (3, 12, 3)
    assert found.entropy == pytest.approx(entropy([5, 6, 1]), abs=1e-4)
    assert found.distinct == pytest.approx(len({(1, 2), (2, 1), (3, 1), (2, 2)}) / 9, abs=1e-4)
    assert found.repeated == pytest.approx(1 / 3, abs=1e-4)


def test_one_sided_rows_are_less_varied_than_mixed_ones() -> None:
    same, mixed = diversity([row(*[7] * 20)] * 4), diversity([row(*range(20 * i, 20 * i + 20)) for i in range(4)])
    assert same.entropy == 0 < mixed.entropy == pytest.approx(math.log(80), abs=1e-4)
    assert same.distinct < mixed.distinct == 1.0 and same.repeated == 0.75 and mixed.repeated == 0


def test_nothing_is_not_varied() -> None:
    assert set(vars(diversity([])).values()) == {0}


def test_places_are_spread_evenly() -> None:
    assert list(spread(10, 5)) == [0, 2, 4, 6, 8] and list(spread(3, 5)) == [0, 1, 2] and list(spread(0, 5)) == []
