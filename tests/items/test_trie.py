"""The trie does what a dict of dicts does, and says what is wrong with IDs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput
from holdfast.items.growing import DEAD, ROOT
from holdfast.items.trie import Trie
from tests.characters import tokenizer

WIDTH = 5
paths = st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=4)
indexes = st.lists(paths, min_size=1, max_size=12)


def nested(ids: Sequence[Sequence[int]]) -> dict[int, Any]:
    """The twin: a dict of dicts."""
    root: dict[int, Any] = {}
    for path in ids:
        node = root
        for token in path:
            node = node.setdefault(token, {})
    return root


def followed(root: dict[int, Any], path: Sequence[int]) -> dict[int, Any] | None:
    node: dict[int, Any] | None = root
    for token in path:
        node = None if node is None else node.get(token)
    return node


def going_on(trie: Trie[Any], state: int) -> dict[int, int]:
    tokens, children = trie.allowed(torch.tensor([state]))
    return {t: c for t, c in zip(tokens[0].tolist(), children[0].tolist(), strict=True) if c != DEAD}


@settings(max_examples=100, deadline=None)
@given(indexes, st.lists(paths, min_size=1, max_size=8))
def test_steps_and_branches_are_those_of_a_dict_of_dicts(ids: list[list[int]], walks: list[list[int]]) -> None:
    trie, twin = Trie(dict(enumerate(ids))), nested(ids)
    for path in [*ids, *walks]:
        state = int(trie.walk(torch.tensor([path]))[0])
        node = followed(twin, path)
        assert (state == DEAD) == (node is None)
        assert set(going_on(trie, state)) == set(node or ())
        assert list(trie.at(state)) == [i for i, other in enumerate(ids) if other == path]
        assert state == DEAD or trie.path(state) == path


@settings(max_examples=50, deadline=None)
@given(indexes, st.lists(st.tuples(st.integers(-1, 20), st.integers(-1, WIDTH + 1)), min_size=1, max_size=20))
def test_all_rows_at_once_are_as_each_alone(ids: list[list[int]], pairs: list[tuple[int, int]]) -> None:
    trie = Trie(dict(enumerate(ids)))
    states, tokens = torch.tensor([(min(s, len(trie) - 1), t) for s, t in pairs]).unbind(1)
    alone = [going_on(trie, int(s)).get(int(t), DEAD) for s, t in zip(states, tokens, strict=True)]
    assert trie.step(states, tokens).tolist() == alone
    assert trie.step(states[:, None], tokens[:, None])[:, 0].tolist() == alone
    both = trie.allowed(states)
    for row, state in enumerate(states.tolist()):
        found = dict(zip(both[0][row].tolist(), both[1][row].tolist(), strict=True))
        assert {t: c for t, c in found.items() if c != DEAD}.items() <= going_on(trie, state).items()
        assert int((both[1][row] != DEAD).sum()) == len(going_on(trie, state))


@settings(max_examples=50, deadline=None)
@given(indexes, st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=3))
def test_what_is_left_is_the_trie_of_the_others(ids: list[list[int]], gone: list[set[int]]) -> None:
    trie = Trie(dict(enumerate(ids)))
    excluded = [{i for i in some if i < len(ids)} for some in gone]
    left = trie.without(excluded)
    for row, some in enumerate(excluded):
        others = [path for i, path in enumerate(ids) if i not in some]
        for state in range(len(trie)):
            path = trie.path(state)
            assert bool(left.below[row, state]) == any(other[: len(path)] == path for other in others)
            assert bool(left.here[row, state]) == (path in others)


def test_states_are_numbered_in_the_order_of_the_items() -> None:
    trie = Trie({"b": [9, 1], "a": [3, 1], "c": [9, 0]})
    assert [trie.path(state) for state in range(len(trie))] == [[], [9], [3], [9, 1], [3, 1], [9, 0]]
    assert trie.lengths.tolist() == [0, 1, 1, 2, 2, 2] and not trie.ragged and trie.depth == 2


def test_items_that_share_an_id_are_told() -> None:
    trie = Trie({"a": [1, 2], "b": [1, 3], "c": [1, 2], "d": [1]})
    assert trie.collisions == [["a", "c"]] and trie.ragged
    assert trie.at(int(trie.walk(torch.tensor([[1, 2]]))[0])) == [0, 2]


def test_a_walk_stops_at_the_end() -> None:
    states, ended = Trie({"a": [1], "b": [1, 2]}).walk(torch.tensor([[1, 4, 0], [1, 2, 4], [1, 2, 2]]), end=4)
    assert states.tolist() == [1, 2, DEAD] and ended.tolist() == [True, True, False]
    assert Trie({"a": [1]}).walk(torch.zeros(2, 0, dtype=torch.int64))[0].tolist() == [ROOT, ROOT]


def test_ids_from_names_of_tokens_and_from_text() -> None:
    trie = Trie.from_tokens({"nut": ["a", "b"], "bolt": "abc"}, tokenizer())
    assert [trie.path(int(state)) for state in trie.ending] == [[4, 5], [4, 5, 6]]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ({}, "no items"),
        ({"nut": [1], "bolt": []}, "'bolt' is empty"),
        ({"nut": [96]}, "the token 96, outside a vocabulary of 96"),
        ({"nut": [-1]}, "the token -1"),
        ({"nut": [7, 3]}, "unknown token"),
        ({"nut": ["<a_1>"]}, "Trie.from_tokens"),
        ({"nut": [1.5]}, "not made of token ids"),
    ],
)
def test_ids_that_cannot_be_used(ids: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Trie(ids, vocabulary=96, unknown=3)


def test_names_that_the_tokenizer_lacks() -> None:
    with pytest.raises(BadInput, match="no token '<a_1>'"):
        Trie.from_tokens({"nut": ["a", "<a_1>"]}, tokenizer())
    with pytest.raises(BadInput, match="unknown token"):
        Trie.from_tokens({"nut": "a§"}, tokenizer())


def test_excluded_items_that_do_not_exist() -> None:
    with pytest.raises(BadInput, match="7 is to be excluded"):
        Trie({"nut": [1]}).without([{7}])


def test_numbers_of_other_libraries_are_token_ids() -> None:
    assert Trie({0: torch.tensor([4, 5])}).path(2) == [4, 5]
