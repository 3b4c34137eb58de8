"""Ranking: the figures of others and of a hand, collisions, segments, and users who stand and fall together."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import ndcg_score

from holdfast._errors import BadInput, UnknownName
from holdfast.evaluation.statistics import mean_interval
from holdfast.items.catalogue import Interaction, popularity
from holdfast.items.ranking import KS, Ranking, items_of, ranked, ranks
from holdfast.items.segments import most_popular
from tests.items.shop import shop

LISTS = [["2", "1", "3"], ["6", "5"], ["9", "4", "4", "3"], []]
CASES = [
    Interaction("ann", ("1",), "1"),
    Interaction("ann", ("1", "2"), "5"),
    Interaction("bob", ("1",) * 5, "3"),
    Interaction("cy", ("1",), "1"),
]


def shops(lists: list[list[str]] = LISTS, cases: list[Interaction] = CASES, **settings: int | float) -> Ranking:
    return ranked(cases, lists, shop(), popularity(shop().split("train")), ks=(1, 2, 3, 10), **settings)  # type: ignore


def test_hits_and_gains_are_those_of_a_hand() -> None:
    found = shops()
    assert found.by_item.tolist() == [2, 2, 4, 0]
    assert found.each("hr@1").tolist() == [0, 0, 0, 0]
    assert found.each("hr@2").tolist() == [1, 1, 0, 0]
    assert found.each("hr@10").tolist() == [1, 1, 1, 0]
    assert found.each("ndcg@3").tolist() == [1 / math.log2(3), 1 / math.log2(3), 0, 0]
    assert found.each("ndcg@10")[2] == pytest.approx(1 / math.log2(5))
    assert found.each("mrr@10").tolist() == [0.5, 0.5, 0.25, 0]
    assert found.each("mrr@3").tolist() == [0.5, 0.5, 0, 0]
    assert found.interval("hr@10").mean == 0.75


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(2, 30))
def test_gains_are_those_of_scikit_learn(data: st.DataObject, n: int) -> None:
    items = [str(i) for i in range(n)]
    order = data.draw(st.permutations(items))
    target = data.draw(st.sampled_from(items))
    place = ranks([order], [target])
    one = Ranking(shop(), (Interaction("u", ("1",), target),), (tuple(order),), {})
    scores = [[n - order.index(item) for item in items]]
    for k in KS:
        theirs = ndcg_score([[float(item == target) for item in items]], scores, k=k)
        assert one.each(f"ndcg@{k}")[0] == pytest.approx(theirs)
        assert one.each(f"hr@{k}")[0] == float(place[0] <= k)


def test_by_id_items_of_one_id_are_one_recommendation_and_a_hit_for_each_other() -> None:
    found = shops([["6", "1"], ["6", "5", "1"], ["6", "5", "3"], ["7", "1"]])
    cases = found.cases
    assert [case.target for case in cases] == ["1", "5", "3", "1"]
    assert found.by_item.tolist() == [2, 2, 3, 2]
    assert found.by_id.tolist() == [2, 1, 2, 2]
    assert found.flattery("hr@1").mean == 0.25
    assert found.told()["flattery"]["hr@10"]["mean"] == 0


@given(
    st.lists(st.lists(st.sampled_from("12345678"), max_size=6), min_size=4, max_size=4), st.sampled_from([1, 2, 3, 10])
)
def test_counting_by_id_never_lowers_a_figure(lists: list[list[str]], k: int) -> None:
    found = shops(lists)
    for measure in ("hr", "ndcg", "mrr"):
        assert (found.each(f"{measure}@{k}", by="id") >= found.each(f"{measure}@{k}")).all()


def test_ids_become_items_the_popular_first_and_what_is_none_keeps_its_place() -> None:
    ids = ["<a_10><b_1><c_1>", "<a_9>", "<a_1><b_1><c_1>"]
    assert items_of(ids, shop(), Counter({"6": 2, "5": 1})) == ["6", "5", "<a_9>", "1"]
    assert items_of(ids, shop(), {}) == ["5", "6", "<a_9>", "1"]
    found = shops([items_of(ids, shop(), {})] * 4)
    assert found.by_item.tolist() == [4, 1, 0, 4]
    assert found.by_id.tolist() == [3, 1, 0, 3]
    assert found.valid == 0.75


def test_users_are_resampled_whole() -> None:
    """As many copies of each case under its user as one likes: nothing is surer, for nobody new was asked."""
    hits = np.random.default_rng(0).integers(0, 2, 40)
    cases = [Interaction(f"u{i:02}", ("1",), "1") for i in range(40)]
    lists = [["1"] if hit else ["2"] for hit in hits]
    one, copies = shops(lists, cases), shops(lists * 5, cases * 5)
    assert one.interval("hr@1") == copies.interval("hr@1")
    ours, theirs = one.interval("hr@1"), mean_interval(hits)
    assert (ours.mean, ours.low, ours.high, ours.n) == (theirs.mean, theirs.low, theirs.high, 40)
    strangers = shops(lists * 5, [Interaction(f"{case.user} {i}", ("1",), "1") for i in range(5) for case in cases])
    assert strangers.interval("hr@1").se < 0.6 * ours.se


@given(st.integers(1, 60))
def test_where_all_users_agree_the_bounds_are_those_of_clopper_and_pearson(n: int) -> None:
    cases = [Interaction(f"u{i:02}", ("1",), "1") for i in range(n)]
    for hits, lists in ((0, [["2"]] * n), (n, [["1"]] * n)):
        found, theirs = shops(lists, cases), binomtest(hits, n).proportion_ci()
        for measure in ("hr@1", "ndcg@10"):
            ours = found.interval(measure)
            assert (ours.mean, ours.low, ours.high) == pytest.approx((hits / n, theirs.low, theirs.high))
    difference = found.above(found, "hr@1")
    assert (difference.mean, -difference.low) == (0, difference.high)
    assert difference.high == pytest.approx(1 - 0.025 ** (1 / n))


def test_users_who_agree_on_a_part_of_a_hit_leave_room_on_both_sides() -> None:
    """All gains are 1 / log2(3); users of whom there are many cases tell less than as many users."""
    cases = [Interaction(f"u{i}", ("1",), "1") for i in range(20)]
    even = shops([["2", "1"]] * 20, cases).interval("ndcg@10")
    one = Interaction("u0", ("1",), "1")
    uneven = shops([["2", "1"]] * 40, [*cases, *[one] * 20]).interval("ndcg@10")
    assert even.mean == pytest.approx(1 / math.log2(3))
    assert 0 < uneven.low < even.low < even.mean < even.high < uneven.high < 1


def test_the_largest_k_counts_as_many_ids_and_by_item_as_many_items() -> None:
    """5 and 6 share an ID: a list of two IDs has three items, the third of which is no hit by item."""
    found = ranked(CASES, [["5", "6", "1"]] * 4, shop(), {}, ks=(1, 2))
    assert found.each("hr@2").tolist() == [0, 1, 0, 0]
    assert found.each("hr@2", by="id").tolist() == [1, 1, 0, 1]
    assert (found.told()["shortest_list"], found.valid) == (2, 1.0)


def test_where_no_two_items_share_an_id_nothing_flatters() -> None:
    alone = shop().with_tokens({item: (f"<a_{item}>",) for item in shop().items})
    none = ranked(CASES, LISTS, alone, {}).flattery("hr@10")
    assert (none.low, none.mean, none.high) == (0, 0, 0)
    assert shops([[]] * 4).flattery("hr@10").high > 0


def test_segments_part_the_cases() -> None:
    cases = [
        Interaction("a", ("1",), "2"),
        Interaction("b", ("1",) * 5, "6"),
        Interaction("c", ("1",) * 4, "3"),
    ]
    counts = {"2": 6, "3": 3, "1": 1}
    found = ranked(cases, [["2"], ["6"], ["1"]], shop(), counts, head=0.6, resamples=20)
    assert {name: mask.tolist() for name, mask in found.segments.items()} == {
        "cold": [False, True, False],
        "warm": [True, False, True],
        "head": [True, False, False],
        "tail": [False, True, True],
        "short": [True, False, True],
        "long": [False, True, False],
    }
    assert found.interval("hr@1", segment="warm").mean == 0.5
    assert found.told()["segments"]["long"] == {
        "cases": 1,
        "hr@10": {"mean": 1.0, "low": pytest.approx(0.025), "high": 1.0},
        "ndcg@10": {"mean": 1.0, "low": pytest.approx(0.025), "high": 1.0},
    }
    assert shops(cases=CASES, long=9).told()["segments"]["long"] == {"cases": 0}
    with pytest.raises(BadInput, match="no case in this segment"):
        shops(long=9).interval("hr@1", segment="long")
    with pytest.raises(UnknownName, match="segment called 'warmer'"):
        shops().interval("hr@1", segment="warmer")


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 9), min_size=1), st.floats(0.01, 0.99))
def test_the_head_is_the_fewest_items_that_make_up_its_share(counts: dict[str, int], share: float) -> None:
    top = most_popular(counts, share)
    whole = sum(counts.values())
    assert sum(counts[item] for item in top) >= share * whole
    assert sum(sorted(counts.values(), reverse=True)[: len(top) - 1]) < share * whole


def test_two_rankings_are_compared_in_pairs_on_the_same_cases() -> None:
    better, worse = shops([[case.target] for case in CASES]), shops()
    assert better.above(worse, "hr@10").mean == 0.25
    assert better.above(better, "hr@10").mean == 0
    with pytest.raises(BadInput, match="same cases"):
        better.above(shops(cases=CASES[::-1]), "hr@10")


def test_all_of_it_is_told_as_plain_values() -> None:
    told = shops().told()
    assert json.loads(json.dumps(told)) == told
    assert (told["cases"], told["users"], told["shortest_list"], told["valid"]) == (4, 3, 0, 8 / 9)
    measures = [f"{name}@{k}" for name in ("hr", "ndcg") for k in (1, 2, 3, 10)] + ["mrr@10"]
    assert list(told["by_item"]) == list(told["by_id"]) == measures
    assert set(told["exposure@10"]) == {"coverage", "gini", "evenness", "diversity"}
    assert told == shops().told()
    plain = ranked(CASES, LISTS, shop(identifiers=False), {}, resamples=20)
    assert "by_id" not in plain.told()


def test_what_cannot_be_ranked_is_said() -> None:
    with pytest.raises(BadInput, match="0 for 4 cases"):
        shops([])
    with pytest.raises(BadInput, match="0 for 0 cases"):
        shops([], [])
    with pytest.raises(BadInput, match="K is at least 1"):
        ranked(CASES, LISTS, shop(), {}, ks=(0, 1))
    with pytest.raises(BadInput, match="between 0 and 1"):
        shops(head=20)
    for wrong in ("hit@10", "hr", "hr@0", "hr@ten"):
        with pytest.raises(UnknownName, match="measure of a ranking"):
            shops().each(wrong)
    with pytest.raises(UnknownName, match="way to count hits"):
        shops().each("hr@1", by="sid")
