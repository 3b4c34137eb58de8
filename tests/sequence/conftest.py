"""What the base makes up is kept for one session, and the pages of single runs are left out: they take most time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("holdfast.recipe.running.write_report", lambda runs, target, title: target)
        yield
