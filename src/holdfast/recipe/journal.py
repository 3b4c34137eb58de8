"""The run's log on disk: one JSON object a line, written as it happens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.evaluation.certificate import finite


class Journal:
    """Appends lines to `path`; `upto` keeps only the lines up to that step, where a run goes on from a checkpoint.

    Lines of kind "train" get the `seconds` spent so far, those before the checkpoint included.
    """

    def __init__(self, path: Path, upto: int | None = None):
        kept = [] if upto is None else _lines(path, upto)
        aside = path.with_name(f".{path.name}")
        aside.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
        os.replace(aside, path)
        self._file = path.open("a", encoding="utf-8")
        self._before = max((float(line.get("seconds") or 0) for line in kept), default=0.0)
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the run began, less the time between an interruption and its resumption."""
        return self._before + time.perf_counter() - self._start

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write one line and hand it to the system at once."""
        timed = {**line, "seconds": round(self.seconds, 2)} if line.get("kind") == "train" else line
        self._file.write(json.dumps(finite(timed), ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def _lines(path: Path, upto: int) -> list[dict[str, Any]]:
    """What was logged up to a step; a line that a crash cut short is left out."""
    if not path.is_file():
        return []
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if line["step"] <= upto:
            kept.append(line)
    return kept
