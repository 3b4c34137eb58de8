"""Two small finished runs, one of whole weights and one of an adapter, for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.recipe import run
from tests.recipe.small import recipe

PLAIN = ("rules=[]", "keep.govern=false", "keep.probe=none", "keep.rows=24", "keep.budget=0.9", "train.max_steps=6")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("holdfast.recipe.running.write_report", lambda runs, target, title: target)
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Path:
    return run(recipe(tmp_path_factory.mktemp("whole"), *PLAIN, "train.learning_rate=5e-3")).folder


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Path:
    lora = ("method={name: lora, rank: 2}", "train.learning_rate=5e-2")
    return run(recipe(tmp_path_factory.mktemp("adapter"), *PLAIN, *lora)).folder
