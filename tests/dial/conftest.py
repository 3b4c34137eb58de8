"""Two small finished runs, one of whole weights and one of an adapter, for the whole session."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.recipe import run
from tests.recipe.small import recipe

PLAIN = ("rules=[]", "keep.govern=false", "keep.probe=none", "keep.rows=48", "keep.budget=0.9", "train.max_steps=6")


def trained(folder: Path, *overrides: str) -> Path:
    """A finished run, without its page (which takes most of the time), apart from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(folder / "cache"))
        patch.setattr("holdfast.recipe.running.write_report", lambda runs, target, title: target)
        return run(recipe(folder, *PLAIN, *overrides)).folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("whole"), "train.learning_rate=5e-3")


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("adapter"), "method={name: lora, rank: 2}", "train.learning_rate=5e-2")
