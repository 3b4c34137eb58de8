"""The run's log on disk: one JSON object a line, written as it happens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from holdfast.evaluation.plain import finite


class Journal:
    """Appends lines to `path`; with `resume`, after those from before the step of the first new line.

    Lines of kind "train" get the `seconds` spent so far, those before the interruption included.
    """

    def __init__(self, path: Path, resume: bool = False):
        self._path = path
        self._kept = _lines(path) if resume else []
        self._before = _seconds(self._kept)
        self._start = time.perf_counter()
        self._file: IO[str] | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the run began, less the time between an interruption and its resumption."""
        return self._before + time.perf_counter() - self._start

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write one line and hand it to the system at once."""
        if self._file is None:
            self._file = self._opened(line["step"])
        timed = {**line, "seconds": round(self.seconds, 2)} if line.get("kind") == "train" else line
        self._file.write(_written(timed))
        self._file.flush()

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            self._file.close()

    def _opened(self, step: int) -> IO[str]:
        """The file with what was done before `step`; what comes after it is done again, and was not the end."""
        kept = [line for line in self._kept if line["step"] < step and not line.get("final")]
        self._before = _seconds(kept)
        if str(self._path) != os.devnull:
            aside = self._path.with_name(f".{self._path.name}")
            aside.write_text("".join(map(_written, kept)), encoding="utf-8")
            os.replace(aside, self._path)
        return self._path.open("a", encoding="utf-8")


def _written(line: Mapping[str, Any]) -> str:
    return json.dumps(finite(line), ensure_ascii=False) + "\n"


def _seconds(lines: Sequence[Mapping[str, Any]]) -> float:
    return max((float(line.get("seconds") or 0) for line in lines), default=0.0)


def _lines(path: Path) -> list[dict[str, Any]]:
    """What was logged; a line that a crash cut short is left out."""
    if not path.is_file():
        return []
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            kept.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return kept
