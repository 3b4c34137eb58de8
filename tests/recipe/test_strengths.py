"""A grid over strengths: one run each, without governor, and what their certificates say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from holdfast._errors import BadInput
from holdfast.recipe import grid, render_grid, running, strengths
from holdfast.recipe.loading import parse
from tests.recipe.small import values


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(running, "write_report", lambda runs, target, title: target)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    recipe = values(tmp_path)
    recipe["keep"] = {"rows": 16, "probe": "none", "suites": recipe["keep"]["suites"], "budget": 0.9}
    recipe["rules"] = [{"l2sp": {"strength": 1.0}}]
    recipe["train"] |= {"max_steps": 3, "learning_rate": 1e-2}
    return recipe


@pytest.mark.slow
def test_more_strength_learns_less_and_keeps_more(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = grid(small, "l2sp", [0.0, 1e6])
    assert [pair.strength for pair in pairs] == [0.0, 1e6]
    loose, tight = ((p.gain["gain"], next(iter(p.rises.values()))["rise"]) for p in pairs)
    assert abs(tight[0]) < 0.05 * abs(loose[0]) and abs(tight[1]) < 0.05 * abs(loose[1])
    told = parse((pairs[1].folder / "recipe.yaml").read_text("utf-8"), "recipe")
    assert told["rules"][0]["l2sp"]["strength"] == 1e6 and told["keep"]["govern"] is False
    out = io.StringIO()
    Console(file=out, width=120).print(render_grid(pairs, "l2sp"))
    assert f"{loose[0]:+.4f}" in out.getvalue() and "1e+06" in out.getvalue()
    assert "unknown" in out.getvalue()  # the new text is one document, so nothing is known of its spread

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("what has come to its end is not done again")

    monkeypatch.setattr(strengths, "run", again)
    assert json.dumps([p.gain for p in grid(small, "l2sp", [0.0, 1e6])]) == json.dumps([p.gain for p in pairs])


def test_what_cannot_be_tried_is_refused(small: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="no strength"):
        grid(small, "frozen", [1.0])
    for wrong in ([], [1.0, 1.0]):
        with pytest.raises(BadInput, match="differ"):
            grid(small, "l2sp", wrong)
    with pytest.raises(BadInput, match="no strengths"):
        strengths.numbers("1;2")
