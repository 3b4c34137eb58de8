"""Baselines: what each recommends, by hand on a few rows, and the known figures on published data."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.items.baselines import baselines, own_history, popular, recommended, successor, together, unseen
from holdfast.items.catalogue import Interaction, popularity
from holdfast.items.ranking import ranked
from tests.items.shop import industrial, published

TRAIN = [
    Interaction("a", ("1",), "2"),
    Interaction("a", ("1", "2"), "3"),
    Interaction("b", ("1",), "2"),
    Interaction("c", ("1",), "4"),
    Interaction("d", ("5",), "3"),
    Interaction("d", ("5", "3"), "3"),
]


def test_popularity_ranks_by_how_often_an_item_was_next() -> None:
    assert popular(TRAIN)(("9",), 9) == ["3", "2", "4"]
    assert popular(TRAIN)(("9",), 1) == ["3"]


def test_successors_come_first_and_popular_items_fill_up() -> None:
    rank = successor(TRAIN)
    assert rank(("3", "1"), 9) == ["2", "4", "3"]
    assert rank(("1", "9"), 2) == ["3", "2"]
    assert rank(("5",), 1) == ["3"]


def test_ones_own_history_comes_back_most_recent_first() -> None:
    assert own_history(TRAIN)(("1", "2", "1", "3"), 9) == ["3", "1", "2"]


def test_what_goes_together_is_weighed_by_the_cosine_over_users() -> None:
    """Users' baskets: a 1 2 3, b 1 2, c 1 4, d 5 3."""
    cosine = {"2": 2 / math.sqrt(3 * 2), "3": 1 / math.sqrt(3 * 2), "4": 1 / math.sqrt(3 * 1)}
    order = sorted(cosine, key=lambda item: -cosine[item])
    assert together(TRAIN)(("1",), 3) == order == ["2", "4", "3"]
    with_five = {"2": cosine["2"], "4": cosine["4"], "3": cosine["3"] + 1 / math.sqrt(1 * 2)}
    assert together(TRAIN)(("1", "5"), 3) == sorted(with_five, key=lambda item: -with_five[item]) == ["3", "2", "4"]
    assert together(TRAIN)(("9",), 2) == ["3", "2"]
    assert together(TRAIN)(("3", "9"), 9) == ["5", "2", "1", "4"]  # nothing of the history, popular though it is


def test_what_was_had_is_left_out_if_asked() -> None:
    assert unseen(successor(TRAIN))(("3", "1"), 2) == ["2", "4"]
    assert unseen(popular(TRAIN))(("3",), 1) == ["2"]
    assert unseen(own_history(TRAIN))(("3",), 5) == []


def test_a_list_goes_on_until_so_many_names_stand() -> None:
    cases, same = [Interaction("a", ("9",), "4")], {"3": "x", "2": "x", "4": "y"}
    assert recommended(popular(TRAIN), cases, 2) == [["3", "2"]]
    (found,) = recommended(popular(TRAIN), cases, 2, same.__getitem__)
    assert found[:2] == ["3", "2"] and {same[item] for item in found} == {"x", "y"}
    assert recommended(popular(TRAIN), cases, 9, same.__getitem__) == [["3", "2", "4"]]


HISTORIES = st.lists(st.sampled_from("123456789"), min_size=1, max_size=6)


@pytest.mark.parametrize("name", baselines.names())
@given(HISTORIES, st.integers(1, 8))
def test_each_item_stands_once_and_a_longer_list_begins_with_the_shorter(name: str, history: list[str], k: int) -> None:
    rank = baselines[name](TRAIN)
    for ranker in (rank, unseen(rank)):
        found = ranker(history, k)
        assert len(found) == len(set(found)) <= k
        assert ranker(history, k + 3)[: len(found)] == found
    assert not set(unseen(rank)(history, k)) & set(history)


@pytest.mark.slow
@published
def test_the_known_figures_of_the_published_data_come_out() -> None:
    train, test = industrial().split("train"), industrial().split("test")
    counts = popularity(train)

    def hits(name: str, by: str = "item") -> float:
        lists = recommended(baselines[name](train), test, 10)
        return float(ranked(test, lists, industrial(), counts).each("hr@10", by=by).mean())

    assert hits("popularity") == pytest.approx(0.061, abs=5e-4)
    assert hits("own history") == pytest.approx(0.0282, abs=5e-5)
    assert hits("own history", by="id") == pytest.approx(0.0474, abs=5e-5)
    # Ten successors alone, as in the reference; where there are fewer, popular items fill up, which adds two points.
    after = [rank[: len(own)] for rank, own in zip(*_successors(train, test), strict=True)]
    alone = ranked(test, after, industrial(), counts).each("hr@10").mean()
    assert alone == pytest.approx(0.083, abs=6e-4)
    assert hits("successor") == pytest.approx(0.1026, abs=5e-5)


def _successors(
    train: tuple[Interaction, ...], test: tuple[Interaction, ...]
) -> tuple[list[list[str]], list[set[str]]]:
    """What the baseline ranks, and which items ever followed the last one."""
    after: dict[str, set[str]] = {}
    for row in train:
        after.setdefault(row.history[-1], set()).add(row.target)
    return recommended(successor(train), test, 10), [after.get(case.history[-1], set()) for case in test]
