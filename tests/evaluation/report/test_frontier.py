"""The picture of the frontier: it is drawn from what dial.json tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast._errors import BadInput
from holdfast.evaluation.report import frontier_picture


def entry(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def told(**more: Any) -> dict[str, Any]:
    points = [{"setting": s, "gain": entry(s), "rises": {"a": entry(s * s / 2), "b": entry(0.0)}} for s in (0, 0.5, 1)]
    return {"frontiers": {"together": points, "in turn": points}, "budget": 0.02, "chosen": points[1], **more}


def test_the_picture_names_the_ways_and_the_chosen_place(tmp_path: Path) -> None:
    text = frontier_picture(told(), tmp_path / "frontier.svg").read_text("utf-8")
    assert "together" in text and "in turn" in text and "chosen: 0.500" in text
    bare = frontier_picture(told(budget=None, chosen=None), tmp_path / "bare.svg").read_text("utf-8")
    assert "chosen" not in bare


def test_the_same_frontier_gives_the_same_picture(tmp_path: Path) -> None:
    one, two = (frontier_picture(told(), tmp_path / f"{name}.png").read_bytes() for name in "ab")
    assert one == two


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"\.png or \.svg"):
        frontier_picture(told(), tmp_path / "frontier.pdf")
