"""Kept apart from the user's cache, and without the pages of single runs, which take most of the time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr("holdfast.recipe.running.write_report", lambda runs, target, title: target)
        yield
