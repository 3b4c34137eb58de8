"""Rows that are made or read only when somebody asks for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import overload

from holdfast.data.packing import Row


class LazyRows(Sequence[Row]):
    """A sequence of rows for which `row` and `__len__` are enough; slices are lists."""

    @abstractmethod
    def row(self, at: int) -> Row:
        """The row at a place from 0 to len(self) - 1."""

    @overload
    def __getitem__(self, at: int) -> Row: ...

    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...

    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self.row(i) for i in range(*at.indices(len(self)))]
        return self.row(range(len(self))[at])

    def __iter__(self) -> Iterator[Row]:
        return (self.row(i) for i in range(len(self)))
