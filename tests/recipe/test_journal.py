"""The run's log on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.recipe.journal import Journal


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    journal({"step": 1, "kind": "train", "loss": float("nan")})
    (line,) = written(tmp_path / "log.jsonl")
    assert line["loss"] is None and line["seconds"] >= 0
    journal({"step": 1, "kind": "note", "text": "…"})
    assert written(tmp_path / "log.jsonl")[1] == {"step": 1, "kind": "note", "text": "…"}
    journal.close()


def test_a_resumed_run_replaces_what_it_does_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    old = [{"step": step, "kind": "train", "seconds": 10.0 * step} for step in (1, 2, 3)]
    end = {"step": 2, "kind": "governor", "final": True}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*old, end]) + '{"step": 4, "ki')
    journal = Journal(path, resume=True)
    assert len(path.read_text().splitlines()) == 5  # untouched until there is something to say
    journal({"step": 3, "kind": "train"})
    journal.close()
    lines = written(path)
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[:2] == old[:2]
    assert 20.0 <= lines[2]["seconds"] < 30.0


def test_a_new_run_begins_a_new_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 7, "kind": "note"}\n')
    Journal(path)({"step": 0, "kind": "note"})
    assert written(path) == [{"step": 0, "kind": "note"}]
