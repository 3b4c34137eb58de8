"""The rows of earlier tasks that are kept for replay: never more than a limit, and what leaves when it is full."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput, UnknownName
from holdfast.data.lazy import LazyRows
from holdfast.data.rows import Row
from holdfast.remedies.shelf import Shelf

Marks = dict[str, list[float]]
"""Of each task, the marks of its rows in rising order; of two rows, the one with the higher mark leaves first."""

MEMORY = 64 * 2**20
"""Bytes of tokens that a reservoir with a folder keeps in memory; beyond, its tasks are files there."""


class Reservoir(LazyRows):
    """At most `limit` rows of all tasks together; a list of rows, so that replay can draw from it.

    Every row gets a mark when it comes, and the rows with the lowest marks stay. `policy` says which those are:

    - `balanced`: every task has the same number of rows (what small tasks leave goes to the others), and those of a
      task are a uniform sample of all that it ever gave.
    - `reservoir`: a uniform sample of all rows of all tasks; a task of twice the size has twice the rows.
      Vitter (1985), "Random sampling with a reservoir".
    - `first`: the rows that came first stay, and nothing leaves.

    Marks follow from the seed, the task and the row's number in it, so it is the same rows whether a task comes at
    once or in parts. Given a `folder`, tasks are kept as files there once all tokens together need more than `memory`
    bytes.

    >>> buffer = Reservoir(2)
    >>> buffer.add("snips", [{"input_ids": [5, 6], "labels": [5, 6]}] * 9)
    >>> buffer.add("trec", [{"input_ids": [7, 8], "labels": [7, 8]}] * 9)
    >>> buffer.counts
    {'snips': 1, 'trec': 1}
    """

    def __init__(
        self,
        limit: int,
        seed: int = 0,
        *,
        policy: str = "balanced",
        folder: str | Path | None = None,
        memory: int = MEMORY,
    ):
        if limit < 1:
            raise BadInput(f"A reservoir holds at least one row, not {limit}.")
        if policy not in POLICIES:
            raise UnknownName("policy of a reservoir called", policy, POLICIES)
        self.limit, self.seed, self.policy, self.memory = limit, seed, policy, memory
        self.folder = None if folder is None else Path(folder)
        self.seen: dict[str, int] = {}
        self._marks: Marks = {}
        self._shelves: dict[str, Shelf] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How many rows of each task are there."""
        return {task: len(shelf) for task, shelf in self._shelves.items()}

    @property
    def parts(self) -> dict[str, Sequence[Row]]:
        """The rows of each task."""
        return dict(self._shelves)

    def add(self, task: str, rows: Sequence[Row]) -> None:
        """Offer rows of a task; which of them stay, and what leaves for them, is up to the policy."""
        came, seen = sum(self.seen.values()), self.seen.get(task, 0)
        self.seen[task] = seen + len(rows)
        first = self.policy == "first"
        fresh = [float(came + i) if first else self._mark(task, seen + i) for i in range(len(rows))]
        before = list(zip(self._marks.get(task, []), self._shelves.get(task, []), strict=True))
        marked = sorted([*before, *zip(fresh, rows, strict=True)], key=lambda pair: pair[0])
        marks = {**self._marks, task: [mark for mark, _ in marked]}
        stay = POLICIES[self.policy](marks, self.limit)
        held = {name: shelf[: stay[name]] for name, shelf in self._shelves.items()}
        self._keep(marks, {**held, task: [row for _, row in marked[: stay[task]]]})

    def rows(self) -> list[Row]:
        """All rows, in memory; a reservoir is a sequence itself, and reads only what is asked for."""
        return list(self)

    def owner(self, at: int) -> str:
        """The task of a row."""
        return self._find(at)[0]

    def __len__(self) -> int:
        return sum(map(len, self._shelves.values()))

    def row(self, at: int) -> Row:
        task, i = self._find(at)
        return self._shelves[task][i]

    def __iter__(self) -> Iterator[Row]:
        return (row for shelf in self._shelves.values() for row in shelf)

    def state(self) -> Mapping[str, Any]:
        """All that `restore` needs, rows included; fit for `checkpoint.write_state`."""
        return {
            "seen": dict(self.seen),
            "marks": {task: list(marks) for task, marks in self._marks.items()},
            "rows": {task: shelf.tensors() for task, shelf in self._shelves.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become the reservoir that gave `state`; limit, seed and policy are this one's own."""
        self.seen = dict(state["seen"])
        self._keep(
            {task: list(marks) for task, marks in state["marks"].items()},
            {task: list(Shelf.of(tensors)) for task, tensors in state["rows"].items()},
        )

    def _keep(self, marks: Marks, rows: Mapping[str, Sequence[Row]]) -> None:
        """Put the rows on shelves: in memory, or in files where they are too many for it."""
        needed = sum(8 * len(row["input_ids"]) for part in rows.values() for row in part)
        apart = self.folder if needed > self.memory else None
        self._marks = {task: marks[task][: len(part)] for task, part in rows.items()}
        self._shelves = {
            task: Shelf(part, None if apart is None else apart / f"task-{i}.safetensors")
            for i, (task, part) in enumerate(rows.items())
        }

    def _find(self, at: int) -> tuple[str, int]:
        at = range(len(self))[at]
        for task, shelf in self._shelves.items():
            if at < len(shelf):
                return task, at
            at -= len(shelf)
        raise AssertionError

    def _mark(self, task: str, number: int) -> float:
        """A number in [0, 1) that looks drawn and always is the same."""
        digest = hashlib.sha256(f"{self.seed}/{task}/{number}".encode()).digest()
        return int.from_bytes(digest[:6], "little") / 2**48


def _balanced(marks: Marks, limit: int) -> dict[str, int]:
    """As many rows as there are up to one level for all; a remainder goes to the tasks that came first."""
    sizes = sorted(map(len, marks.values()))
    level = left = limit
    for i, size in enumerate(sizes):
        level = left // (len(sizes) - i)
        if size > level:
            break
        left -= size
    stay = {task: min(len(found), level) for task, found in marks.items()}
    spare = limit - sum(stay.values())
    longer = [task for task, found in marks.items() if len(found) > level]
    return {**stay, **dict.fromkeys(longer[:spare], level + 1)}


def _lowest(marks: Marks, limit: int) -> dict[str, int]:
    """The lowest marks of all tasks."""
    best = sorted((mark, task) for task, found in marks.items() for mark in found)[:limit]
    return {name: sum(task == name for _, task in best) for name in marks}


POLICIES: dict[str, Callable[[Marks, int], dict[str, int]]] = {
    "balanced": _balanced,
    "reservoir": _lowest,
    "first": _lowest,
}
"""How many rows of each task stay, given the marks of all and the limit."""
