"""The picture of importance."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from holdfast._errors import BadInput
from holdfast.evaluation.report import importance_picture

PARTS = {("embedding", None): 0.0, ("attention", 0): 2e-5, ("attention", 1): 0.5, ("mlp", 0): 0.01, ("mlp", 1): 0.02}


def test_an_svg_shows_the_figures_and_the_scale(tmp_path: Path) -> None:
    svg = importance_picture(PARTS, tmp_path / "deep" / "heat.svg", "fisher of <tiny>").read_text("utf-8")
    for said in ("fisher of &lt;tiny&gt;", "0.500", "2e-05", "embedding", "outside", "logarithmic"):
        assert said in svg
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["heat.svg"]


def test_a_png_is_deepest_where_importance_is_highest(tmp_path: Path) -> None:
    only = {("attention", 0): 1e-9, ("attention", 1): 1.0}
    with Image.open(importance_picture(only, tmp_path / "heat.PNG", "mas")) as picture:
        shown = picture.convert("RGB")
    colours = {colour for _, colour in shown.getcolors(1 << 24)}
    assert (237, 166, 58) in colours and shown.width > 600


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    for kind in ("svg", "png"):
        first, second = (importance_picture(PARTS, tmp_path / f"{i}.{kind}", "mas").read_bytes() for i in range(2))
        assert first == second


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"\.png or \.svg"):
        importance_picture(PARTS, tmp_path / "heat.pdf", "mas")
    with pytest.raises(BadInput, match="nothing to draw"):
        importance_picture(dict.fromkeys(PARTS, 0.0), tmp_path / "heat.svg", "mas")
    assert not list(tmp_path.iterdir())
