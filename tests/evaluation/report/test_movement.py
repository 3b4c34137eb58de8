"""Movement per layer: which parts there are, how deep their colour is, and that figures are shown where they fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from holdfast.evaluation.report import RunRecord
from holdfast.evaluation.report.drawing import style
from holdfast.evaluation.report.movement import layer_map, level, parts
from tests.evaluation.report.runs import SHAPES, groups


def _run(found: object) -> RunRecord:
    return RunRecord("run", Path("run"), log=({"kind": "movement", "step": 9, "groups": found},))


def _drawn(found: object) -> Figure:
    with style():
        figure = layer_map(_run(found), "movement", 1e-3, 0.1)
        assert figure is not None
        figure.draw_without_rendering()
    return figure


def _words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_the_last_line_counts(records: list[RunRecord]):
    expected = groups(1.0, SHAPES["plain"])
    assert len(parts(records[0])) == len(expected)
    assert parts(records[0])["mlp", 4] == expected["layers.4 mlp"]
    assert parts(records[0])["embedding", None] == 0.0


def test_no_line_no_picture():
    assert parts(RunRecord("run", Path("run"))) == {}
    assert layer_map(RunRecord("run", Path("run")), "movement", 0.0, 0.0) is None
    assert parts(_run(None)) == {}


def test_depth_of_colour_grows_with_movement_and_is_none_for_none():
    depths = [level(value, 1e-3, 1e-1) for value in (0.0, 1e-3, 1e-2, 1e-1)]
    assert depths == pytest.approx([0.0, 0.1, 0.55, 1.0])
    assert level(0.5, 0.5, 0.5) == 1.0


def test_each_part_is_a_cell_with_its_figure():
    figure = _drawn({"layers.0 mlp": 0.0625, "layers.1 mlp": 0.0, "layers.1 attention": 2e-5, "head": 0.01})
    cells = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(cells) == 4
    assert sorted(cell.get_alpha() or cell.get_facecolor()[3] for cell in cells)[0] == 0.0
    assert {"0.062", "0", "2e-05", "0.010", "attention", "mlp", "head", "outside", "1"} <= set(_words(figure))


def test_a_deep_model_shows_colours_and_few_labels():
    words = _words(_drawn({f"layers.{block} mlp": 0.01 for block in range(48)} | {"norm": 0.02}))
    assert "0.010" not in words
    assert "0.020" in words
    assert len({word for word in words if word.isdigit()}) <= 10


def test_adapters_outside_all_blocks_alone():
    assert {"adapter", "outside"} <= set(_words(_drawn({"adapter": 0.01})))
