"""Several sources of rows as one, in which each counts alike and every row says whose it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from holdfast.data.lazy import LazyRows
from holdfast.data.rows import Row

Named = Mapping[str, Sequence[Row]] | Iterable[tuple[str, Sequence[Row]]]


class Mixture(LazyRows):
    """A row of each source in turn, as long as the longest one lasts; the shorter ones start again.

    Nothing is copied: a source may be a reservoir that lies on disk. Sources without rows are left out.

    >>> mixture = Mixture({"a": [{"input_ids": [1]}, {"input_ids": [2]}], "b": [{"input_ids": [3]}]})
    >>> [row["input_ids"] for row in mixture]
    [[1], [3], [2], [3]]
    """

    def __init__(self, sources: Named):
        pairs = sources.items() if isinstance(sources, Mapping) else sources
        self.sources = [(name, rows) for name, rows in pairs if len(rows)]

    def owner(self, at: int) -> str:
        """The name of the source of a row."""
        return self.sources[range(len(self))[at] % len(self.sources)][0]

    @property
    def names(self) -> list[str]:
        """The names of the sources, each once."""
        return list(dict.fromkeys(name for name, _ in self.sources))

    def __len__(self) -> int:
        return len(self.sources) * max((len(rows) for _, rows in self.sources), default=0)

    def row(self, at: int) -> Row:
        turn, which = divmod(at, len(self.sources))
        rows = self.sources[which][1]
        return rows[turn % len(rows)]
