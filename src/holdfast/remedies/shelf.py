"""Rows packed in flat arrays, in memory or in one file that is read a row at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from holdfast.checkpoint import file_kept_whole
from holdfast.data.lazy import LazyRows
from holdfast.data.rows import Row

FIELDS = ("input_ids", "labels")


class Shelf(LazyRows):
    """Rows as they were given, `input_ids` and `labels` only; 8 bytes a token instead of 70 or more.

    With a `file` the tokens stand there (safetensors), and a row is read when it is asked for; only where each begins
    is kept in memory.
    """

    def __init__(self, rows: Sequence[Row], file: Path | None = None):
        self._put(packed(rows), file)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], file: Path | None = None) -> Shelf:
        """The shelf that `tensors` gave."""
        shelf = cls.__new__(cls)
        shelf._put({name: tensors[name] for name in (*FIELDS, "starts")}, file)
        return shelf

    def tensors(self) -> dict[str, Tensor]:
        """All of it: `input_ids` and `labels` int32 [tokens], and `starts` int64 [rows + 1]."""
        return {**{name: self._read(name, 0, int(self._starts[-1])) for name in FIELDS}, "starts": self._starts}

    def __len__(self) -> int:
        return len(self._starts) - 1

    def row(self, at: int) -> Row:
        begin, end = (int(border) for border in self._starts[at : at + 2])
        return {name: self._read(name, begin, end).tolist() for name in FIELDS}

    def _put(self, tensors: dict[str, Tensor], file: Path | None) -> None:
        self._starts, self._file, self._held = tensors.pop("starts"), file, tensors
        if file is not None:
            with file_kept_whole(file) as half:
                save_file({name: t.contiguous() for name, t in tensors.items()}, half)
            self._held = {}

    def _read(self, name: str, begin: int, end: int) -> Tensor:
        if self._file is None:
            return self._held[name][begin:end]
        with safe_open(self._file, framework="pt") as opened:
            part: Any = opened.get_slice(name)[begin:end]
        return torch.as_tensor(part)


def packed(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows as flat tensors: `input_ids` and `labels` int32 [tokens], `starts` int64 [rows + 1]."""
    lengths = [len(row["input_ids"]) for row in rows]
    flat = {name: [token for row in rows for token in row[name]] for name in FIELDS}
    tensors = {name: torch.tensor(tokens, dtype=torch.int32) for name, tokens in flat.items()}
    return {**tensors, "starts": torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int64)}
