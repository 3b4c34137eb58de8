"""Exposure: figures of even, lopsided and empty recommendations, against definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from holdfast.items.exposure import diversity, evenness, exposure, gini, kind
from tests.items.shop import shop

COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=30).filter(any)


@given(COUNTS)
def test_gini_is_half_the_mean_difference_over_the_mean(counts: list[int]) -> None:
    differences = np.abs(np.subtract.outer(counts, counts)).mean()
    assert gini(counts) == pytest.approx(differences / (2 * np.mean(counts)), abs=1e-12)


@given(COUNTS)
def test_evenness_is_the_entropy_over_that_of_an_even_share(counts: list[int]) -> None:
    assert evenness(counts) == pytest.approx(entropy(counts) / math.log(len(counts)), abs=1e-12)


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=9))
def test_diversity_is_the_share_of_unlike_pairs(kinds: list[str]) -> None:
    pairs = list(itertools.combinations(kinds, 2))
    assert diversity(kinds) == pytest.approx(sum(a != b for a, b in pairs) / len(pairs))


def test_what_is_no_item_shows_nothing_of_the_catalogue() -> None:
    found = exposure([["1", "2", "9"], ["1", "3"], ["9"]], shop())
    assert found["coverage"] == 0.5
    assert found["diversity"] == 0.5
    assert found["gini"] == gini([2, 1, 1, 0, 0, 0]) and found["evenness"] == evenness([2, 1, 1, 0, 0, 0])


def test_where_nothing_is_recommended_nothing_is_known() -> None:
    found = exposure([[], ["9"]], shop())
    assert found["coverage"] == 0
    assert all(math.isnan(found[name]) for name in ("gini", "evenness", "diversity"))


def test_kinds_are_first_codes_else_categories_else_brands() -> None:
    plain = shop(identifiers=False)
    assert kind("2", shop()) == "<a_1>"
    assert [kind(item, plain) for item in ("2", "4", "5")] == ["table", "", "x"]
