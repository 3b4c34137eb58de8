"""Sources take turns, whatever their length."""

from __future__ import annotations

from itertools import cycle, islice

import pytest

from holdfast.data.mixing import Mixture
from holdfast.data.rows import Row


def rows(count: int, first: int) -> list[Row]:
    return [{"input_ids": [first + i], "labels": [first + i]} for i in range(count)]


def test_it_is_the_list_that_taking_turns_gives() -> None:
    sources = {"a": rows(5, 0), "b": rows(2, 10), "c": rows(3, 20)}
    turns = zip(*(islice(cycle(part), 5) for part in sources.values()), strict=True)
    expected = [row for turn in turns for row in turn]
    mixture = Mixture(sources)
    assert list(mixture) == expected == [mixture[i] for i in range(len(mixture))]
    assert mixture[3:9:2] == expected[3:9:2] and mixture[-1] == expected[-1] and mixture[:4] == expected[:4]
    assert [mixture.owner(i) for i in range(6)] == ["a", "b", "c", "a", "b", "c"]
    with pytest.raises(IndexError):
        mixture[15]


def test_one_source_is_itself_and_a_name_may_come_twice() -> None:
    assert list(Mixture({"a": rows(4, 0)})) == rows(4, 0)
    twice = Mixture([("a", rows(2, 0)), ("b", rows(2, 10)), ("a", rows(2, 0))])
    assert len(twice) == 6 and twice.names == ["a", "b"] and [twice.owner(i) for i in range(3)] == ["a", "b", "a"]


def test_sources_without_rows_are_left_out() -> None:
    assert list(Mixture({"a": [], "b": rows(2, 0)})) == rows(2, 0)
    assert len(Mixture({})) == 0 and list(Mixture({"a": []})) == []
