"""A recipe that runs in a second or two: the embedded model, a few steps, short rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.data.formats import Text, read
from holdfast.recipe import Recipe, load

PLAYS = [f"SPEAKER {i}:\nO for a muse of fire, that would ascend the {i}th heaven of invention!\n" for i in range(60)]
STORIES = "\n\n".join(record.text for record in read("tiny/stories") if isinstance(record, Text))[:24000]


def texts(folder: Path) -> dict[str, str]:
    """A new text and an old one, in files of their own."""
    paths = {"new": folder / "plays.txt", "old": folder / "stories.txt"}
    paths["new"].write_text("\n\n".join(PLAYS), "utf-8")
    paths["old"].write_text(STORIES, "utf-8")
    return {name: str(path) for name, path in paths.items()}


def values(folder: Path) -> dict[str, Any]:
    """The recipe's values, with a budget that so few rows can resolve."""
    files = texts(folder)
    return {
        "base": "tiny",
        "learn": {"data": files["new"], "length": 32},
        "keep": {"rows": 48, "suites": [files["old"]], "budget": 0.9, "every": 2, "look": 8},
        "train": {
            "learning_rate": 1e-3,
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "use_cpu": True,
        },
        "rules": [
            {"replay": {"share": 0.5, "source": ["self", files["old"]], "labels": False}},
            {"distill": {"strength": 4.0}},
        ],
        "monitor": {"every": 2, "rows": 4},
        "samples": {"tokens": 4},
        "output": str(folder / "run"),
    }


def recipe(folder: Path, *overrides: str) -> Recipe:
    """The recipe, its files in `folder`."""
    return load(values(folder), overrides)
