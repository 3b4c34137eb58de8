"""A sequence that runs in a few seconds: the embedded model, two closed tasks and a text, a few steps each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.sequence import SequenceRecipe, load
from tests.recipe.small import PLAYS, STORIES

COLOURS, SIZES = ("red", "blue", "green"), ("big", "small")


def _records(count: int, word: str, choices: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"prompt": f"The {word} of thing {i} is", "answer": choices[i % len(choices)], "choices": list(choices)}
        for i in range(count)
    ]


def tasks(folder: Path) -> list[dict[str, Any]]:
    """Two tasks with a closed set of answers, and one of running text, in files of their own."""
    for name, word, choices in (("colours", "colour", COLOURS), ("sizes", "size", SIZES)):
        for part, count, begin in (("train", 120, 0), ("test", 12, 120)):
            records = _records(begin + count, word, choices)[begin:]
            (folder / f"{name}.{part}.jsonl").write_text("\n".join(map(json.dumps, records)), "utf-8")
    (folder / "plays.txt").write_text("\n\n".join(PLAYS), "utf-8")
    closed = [
        {"name": name, "data": str(folder / f"{name}.train.jsonl"), "evaluation": str(folder / f"{name}.test.jsonl")}
        for name in ("colours", "sizes")
    ]
    return [*closed, {"name": "plays", "data": str(folder / "plays.txt"), "items": 8}]


def values(folder: Path) -> dict[str, Any]:
    """The sequence's values; a replay of earlier tasks and of a general text among its rules."""
    (folder / "stories.txt").write_text(STORIES, "utf-8")
    return {
        "base": "tiny",
        "learn": {"length": 32},
        "tasks": tasks(folder),
        "keep": {"rows": 24, "probe": "none", "suites": [str(folder / "stories.txt")]},
        "train": {"learning_rate": 2e-3, "max_steps": 3, "per_device_train_batch_size": 4, "use_cpu": True},
        "rules": [{"replay": {"share": 0.5, "source": ["tasks", str(folder / "stories.txt")]}}],
        "monitor": {"every": 3, "rows": 4},
        "samples": {"tokens": 2},
        "output": str(folder / "run"),
    }


def recipe(folder: Path, *overrides: str) -> SequenceRecipe:
    """The sequence, its files in `folder`."""
    return load(values(folder), overrides)
