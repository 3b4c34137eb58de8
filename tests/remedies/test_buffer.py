"""The reservoir never holds more than its limit, its samples are fair, and it comes back as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import chisquare

from holdfast import checkpoint
from holdfast._errors import BadInput, UnknownName
from holdfast.data.rows import Row
from holdfast.remedies.buffer import Reservoir


def rows(count: int, first: int = 0) -> list[Row]:
    return [{"input_ids": [first + i, 1, 2][: 1 + i % 3], "labels": [-100, 1, 2][: 1 + i % 3]} for i in range(count)]


def numbers(buffer: Reservoir) -> list[int]:
    return [row["input_ids"][0] for row in buffer.rows()]


@pytest.mark.parametrize("policy", ["balanced", "reservoir", "first"])
def test_it_never_holds_more_than_its_limit(policy: str) -> None:
    buffer = Reservoir(10, policy=policy)
    for task, size in {"a": 3, "b": 40, "c": 1, "d": 12}.items():
        buffer.add(task, rows(size))
        assert len(buffer) == min(10, sum(buffer.seen.values())) == sum(buffer.counts.values())


def test_every_task_has_its_share_and_what_small_ones_leave_goes_to_the_others() -> None:
    buffer = Reservoir(10)
    buffer.add("a", rows(40))
    assert buffer.counts == {"a": 10}
    buffer.add("b", rows(40))
    assert buffer.counts == {"a": 5, "b": 5}
    buffer.add("c", rows(2))
    assert buffer.counts == {"a": 4, "b": 4, "c": 2}
    buffer.add("d", rows(40))
    assert buffer.counts == {"a": 3, "b": 3, "c": 2, "d": 2}


def test_the_first_rows_stay_where_nothing_leaves() -> None:
    buffer = Reservoir(4, policy="first")
    buffer.add("a", rows(3))
    buffer.add("b", rows(9, first=50))
    assert numbers(buffer) == [0, 1, 2, 50]


@pytest.mark.parametrize("policy", ["balanced", "reservoir"])
def test_every_row_of_a_task_has_the_same_chance(policy: str) -> None:
    """Against the chi-squared test of scipy, in parts and with tasks that come later."""
    found: Counter[int] = Counter()
    for seed in range(400):
        buffer = Reservoir(8, seed, policy=policy)
        for part in range(4):
            buffer.add("a", rows(20)[5 * part : 5 * part + 5])
        buffer.add("b", rows(20, first=50))
        found.update(n for n in numbers(buffer) if n < 50)
    assert chisquare([found[i] for i in range(20)]).pvalue > 1e-3


def test_a_uniform_reservoir_follows_the_sizes_of_its_tasks() -> None:
    counts: Counter[str] = Counter()
    for seed in range(200):
        buffer = Reservoir(10, seed, policy="reservoir")
        buffer.add("a", rows(30))
        buffer.add("b", rows(10))
        counts.update(buffer.counts)
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.15)


def test_the_same_rows_whether_a_task_comes_at_once_or_in_parts() -> None:
    whole, parts = Reservoir(6, 1), Reservoir(6, 1)
    whole.add("a", rows(30))
    for i in range(30):
        parts.add("a", rows(30)[i : i + 1])
    assert whole.rows() == parts.rows() and whole.rows() != Reservoir(6, 2).rows()


def test_rows_are_those_that_came_and_say_whose_they_are() -> None:
    buffer = Reservoir(7)
    buffer.add("a", rows(20))
    buffer.add("b", rows(20, first=50))
    assert all(row in rows(20) + rows(20, first=50) for row in buffer)
    assert [buffer.owner(i) for i in range(len(buffer))] == ["a" if n < 50 else "b" for n in numbers(buffer)]
    assert buffer[-1] == buffer.rows()[-1] and buffer[1:5:2] == buffer.rows()[1:5:2]
    with pytest.raises(IndexError):
        buffer[7]


@pytest.mark.parametrize("memory", [0, 10**6])
def test_on_disk_or_in_memory_it_is_the_same(tmp_path: Path, memory: int) -> None:
    plain, shelved = Reservoir(9, 3), Reservoir(9, 3, folder=tmp_path / "rows", memory=memory)
    for buffer in (plain, shelved):
        for task in "abc":
            buffer.add(task, rows(12))
    assert plain.rows() == shelved.rows() and plain.counts == shelved.counts
    files = sorted(file.name for file in (tmp_path / "rows").glob("*"))
    assert files == ([] if memory else [f"task-{i}.safetensors" for i in range(3)])
    assert not memory or not shelved._shelves["a"]._file


@pytest.mark.parametrize("memory", [0, 10**6])
def test_what_was_saved_goes_on_as_if_it_had_never_stopped(tmp_path: Path, memory: int) -> None:
    buffer = Reservoir(9, 3, folder=tmp_path / "one", memory=memory)
    buffer.add("a", rows(12))
    buffer.add("b", rows(12, first=50))
    checkpoint.write_state(tmp_path, "buffer", buffer.state())
    back = Reservoir(9, 3, folder=tmp_path / "other", memory=memory)
    back.restore(checkpoint.read_state(tmp_path, "buffer"))
    assert back.rows() == buffer.rows()
    for both in (buffer, back):
        both.add("b", rows(5, first=80))
        both.add("c", rows(9, first=90))
    assert back.rows() == buffer.rows() and back.counts == buffer.counts and back.seen == buffer.seen


def test_an_empty_reservoir_is_an_empty_list() -> None:
    buffer = Reservoir(3)
    assert buffer.rows() == [] and len(buffer) == 0 and buffer.counts == {}
    buffer.add("a", [])
    assert buffer.rows() == [] and buffer.counts == {"a": 0}


def test_what_cannot_be_a_reservoir_is_said() -> None:
    with pytest.raises(BadInput, match="at least one row"):
        Reservoir(0)
    with pytest.raises(UnknownName, match="balanced"):
        Reservoir(4, policy="balance")
