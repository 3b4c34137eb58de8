"""A made-up catalogue in a folder, and a tiny model that was taught its items in a few steps."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from holdfast.items.catalogue import Catalogue
from holdfast.items.made_up import made_up
from holdfast.items.writing import write
from holdfast.recipe import load, run, running
from tests.recipe.small import STORIES


def shop() -> Catalogue:
    """336 items and the choices of 40 users."""
    return made_up(users=40)


def values(folder: Path, **changed: Any) -> dict[str, Any]:
    """A recipe that teaches the rows of the new tokens alone, its files in `folder`."""
    folder.mkdir(exist_ok=True)
    write(shop(), folder / "shop")
    (folder / "old.txt").write_text(STORIES, "utf-8")
    told = {
        "base": "tiny",
        "vocabulary": {"items": str(folder / "shop")},
        "freeze_llm": True,
        "learn": {"data": str(folder / "shop"), "length": 96, "tasks": {"history": 1, "titles_to_id": 0.2}},
        "keep": {"probe": "none", "suites": [str(folder / "old.txt")], "rows": 16},
        "train": {"learning_rate": 2e-2, "max_steps": 12, "per_device_train_batch_size": 8, "use_cpu": True},
        "samples": {"tokens": 2},
        "monitor": {"every": 12, "rows": 4},
        "output": str(folder / "run"),
    }
    return {**told, **changed}


def taught(folder: Path, **changed: Any) -> Path:
    """The folder of a run of that recipe, without its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "write_report", lambda runs, target, title: target)
        return run(load(values(folder, **changed))).folder


@cache
def once(made: Path) -> Path:
    """`taught`, once in a process, below the folder of all tests; what writes into the run works on a copy."""
    return taught(made / "taught")
