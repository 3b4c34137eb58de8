"""Catalogues: shared titles and IDs stay apart, tokens are checked, choices are counted once."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast._errors import BadInput, UnknownName
from holdfast.items.catalogue import Catalogue, Interaction, Item, popularity
from tests.items.shop import industrial, published, shop


def test_items_of_one_title_or_of_one_id_do_not_overwrite_each_other() -> None:
    assert shop().by_title["big hat"] == ("3", "4")
    assert shop().by_sid["<a_10><b_1><c_1>"] == ("5", "6")
    assert shop().sid("2") == "<a_1><b_2><c_1><d_1>"


@published
def test_the_published_catalogue_has_the_doubles_that_are_known_of_it() -> None:
    assert sum(len(items) - 1 for items in industrial().by_title.values()) == 40
    collisions = [len(items) for items in industrial().by_sid.values() if len(items) > 1]
    assert (len(collisions), sum(collisions), max(collisions)) == (15, 31, 3)
    assert len(industrial().vocabulary) == 560


def test_tokens_are_told_level_by_level_and_by_number() -> None:
    assert shop().vocabulary == ["<a_1>", "<a_2>", "<a_10>", "<b_1>", "<b_2>", "<c_1>", "<c_2>", "<c_10>", "<d_1>"]


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(BadInput, match="no semantic IDs yet"):
        shop(identifiers=False).sid("1")
    with pytest.raises(UnknownName, match=r"item with a semantic ID called '7'"):
        shop().sid("7")
    with pytest.raises(UnknownName, match=r"item of 'shop' called '7'"):
        shop().title("7")
    with pytest.raises(UnknownName, match=r"'tain'. Did you mean 'train'"):
        shop().split("tain")


def test_tokens_are_given_to_every_item_or_to_none() -> None:
    plain = shop(identifiers=False)
    assert plain.with_tokens({item: list(tokens) for item, tokens in shop().tokens.items()}) == shop()
    with pytest.raises(BadInput, match=r"5 items have no semantic ID, among them \['2', '3', '4'\]"):
        plain.with_tokens({"1": ["<a_1>"]})
    with pytest.raises(BadInput, match=r"belong to no item: \['7'\]"):
        plain.with_tokens({**shop().tokens, "7": ["<a_1>"]})


@pytest.mark.parametrize("tokens", [[], "<a_1>", ["a_1"], ["<a 1>"], ["<a_1><b_1>"], [1], ["<>"]])
def test_tokens_that_could_not_be_told_apart_are_refused(tokens: list[str]) -> None:
    with pytest.raises(BadInput, match="item '3' cannot be used"):
        shop().with_tokens({**shop().tokens, "3": tokens})


@given(st.dictionaries(st.sampled_from("uvw"), st.lists(st.sampled_from("abcde"), min_size=2, max_size=8)))
def test_choices_are_counted_once_however_often_histories_repeat_them(sequences: dict[str, list[str]]) -> None:
    rows = [Interaction(u, tuple(s[:i]), s[i]) for u, s in sequences.items() for i in range(1, len(s))]
    found = popularity(rows)
    targets = Counter(item for s in sequences.values() for item in s[1:])
    assert set(found) == {item for s in sequences.values() for item in s}
    assert all(targets[item] <= found[item] <= targets[item] + len(sequences) for item in found)
    if all(len(set(s)) == len(s) for s in sequences.values()):
        assert found == Counter(item for s in sequences.values() for item in s)


def test_a_title_stands_on_one_line() -> None:
    assert Catalogue("x", {"1": Item("1", " a\n b\t\tc ")}).title("1") == "a b c"
