"""A small search, made once: four recipes of at most four steps on the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.search import Found, Narrowed, narrowed, search
from tests.recipe.small import values

SEED = 3


def small(folder: Path) -> dict[str, Any]:
    """A recipe of four steps with two rules, no text made up, and a budget that some candidates keep."""
    recipe = values(folder)
    old = recipe["keep"]["suites"]
    recipe["keep"] = {"rows": 32, "probe": "none", "suites": old, "budget": 0.9, "every": 2}
    recipe["method"] = {"name": "lora", "rank": 4}
    recipe["train"] |= {"max_steps": 4, "learning_rate": 1e-2}
    recipe["rules"] = [{"replay": {"share": 0.25, "source": old}}, {"l2sp": {"strength": 1.0}}]
    return recipe


def space(**more: Any) -> Narrowed:
    return narrowed({"methods": ["full", "lora"], **more})


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Found:
    """What is read by many tests and changed by none."""
    folder = tmp_path_factory.mktemp("found")
    return search(small(folder), trials=5, minutes=10, seed=SEED, folder=folder / "search", space=space())
