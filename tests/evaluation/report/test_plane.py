"""The learning-versus-keeping plane: where runs stand, their way there, their names, and the picture file."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from holdfast._errors import BadInput
from holdfast.evaluation.report import RunRecord, plane_picture
from holdfast.evaluation.report.drawing import style
from holdfast.evaluation.report.plane import budgets, plane, tracks
from tests.evaluation.report.runs import SHAPES, STEPS, certificate


def test_a_run_stands_where_its_certificate_says(records: list[RunRecord]):
    for track, shape in zip(tracks(records), SHAPES.values(), strict=True):
        assert track.audited
        assert track.end.gain == pytest.approx(shape.gain)
        assert track.end.forgetting == pytest.approx(100 * math.expm1(max(shape.rises.values())))
        assert track.end.bars is not None
        assert track.end.bars[0] < track.end.forgetting < track.end.bars[1]
        assert track.end.bars[2] < track.end.gain < track.end.bars[3]


def test_the_way_begins_at_the_base_and_has_a_point_a_look(records: list[RunRecord]):
    way = tracks(records)[0].way
    assert (way[0].forgetting, way[0].gain) == (0.0, 0.0)
    assert len(way) == 1 + STEPS // 20
    looks = records[0].series("probe", "tiny/stories")
    assert way[-1].forgetting == pytest.approx(100 * math.expm1(looks[-1]["rise"]))


def test_looks_at_other_steps_are_paired_with_the_latest_before():
    learn = [{"kind": "learn", "step": s, "text": "new", "gain": s / 10} for s in (1, 4, 8)]
    probe = [{"kind": "probe", "step": s, "text": "old", "rise": s / 100} for s in (3, 6, 7, 9)]
    log = sorted(learn + probe, key=lambda line: line["step"])
    way = tracks([RunRecord("run", Path("run"), log=tuple(log))])[0].way
    expected = [(0.0, 0.0), (100 * math.expm1(0.03), 0.4), (100 * math.expm1(0.07), 0.8)]
    assert [(point.forgetting, point.gain) for point in way] == [pytest.approx(pair) for pair in expected]


def test_without_a_certificate_the_last_look_stands_in_and_says_so(records: list[RunRecord]):
    run = replace(records[0], certificate=None)
    track = tracks([run])[0]
    assert not track.audited
    assert track.end == track.way[-1]
    assert "plain (not audited)" in _texts(_plane([run]))


def test_several_new_texts_are_averaged(records: list[RunRecord]):
    found = certificate(SHAPES["plain"])
    second = {**found["learnt"][0], "text": "another", "gain": found["learnt"][0]["gain"] + 1}
    run = replace(records[0], certificate={**found, "learnt": [*found["learnt"], second]})
    assert tracks([run])[0].end.gain == pytest.approx(SHAPES["plain"].gain + 0.5)
    assert any("2 new texts" in text for text in _texts(_plane([run])))


def test_runs_with_nothing_measured_have_no_plane(tmp_path: Path):
    run = RunRecord("run", Path("run"))
    with style():
        assert plane([run]) is None
    with pytest.raises(BadInput, match="no point to draw"):
        plane_picture([run], tmp_path / "plane.png")


def test_budgets_are_in_per_cent_and_once(records: list[RunRecord]):
    assert budgets(records) == [2.0]


def _plane(runs: list[RunRecord], width: float = 8.6) -> Figure:
    with style():
        figure = plane(runs, width=width)
        assert figure is not None
        figure.draw_without_rendering()
    return figure


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("width", [8.6, 4.9])
def test_every_run_is_named_and_no_name_covers_another(records: list[RunRecord], width: float):
    crowd = [*records, *(replace(run, name=f"{run.name} again") for run in records)]
    with style():
        figure = _plane(crowd, width)
        names = {run.name for run in crowd}
        boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text() in names]
    assert len(boxes) == len(names)
    assert not any(one.overlaps(two) for i, one in enumerate(boxes) for two in boxes[:i])
    assert "budget 2 %" in _texts(figure)


@pytest.mark.parametrize("width", [8.6, 4.9])
def test_names_stay_clear_of_error_bars_and_of_the_edge(records: list[RunRecord], width: float):
    with style():
        figure = _plane(records, width)
        (axes,) = figure.axes
        inside = axes.get_window_extent()
        names = {run.name for run in records}
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text() in names]
        ends = [track.end for track in tracks(records)]
        across = [[(e.bars[0], e.gain), (e.bars[1], e.gain)] for e in ends if e.bars]
        upright = [[(e.forgetting, e.bars[2]), (e.forgetting, e.bars[3])] for e in ends if e.bars]
        bars = [Bbox(axes.transData.transform(bar)) for bar in across + upright]
    assert len(boxes) == len(names) and len(bars) == 2 * len(records)
    assert not any(box.overlaps(bar) for box in boxes for bar in bars)
    assert all(inside.x0 < box.x0 and box.x1 < inside.x1 for box in boxes)


def test_points_stand_away_from_both_ends_of_the_axis(records: list[RunRecord]):
    with style():
        figure = _plane(records)
        (axes,) = figure.axes
        to_axes = axes.transData + axes.transAxes.inverted()
        places = [to_axes.transform((track.end.forgetting, track.end.gain))[0] for track in tracks(records)]
    assert all(0.08 < place < 0.92 for place in places)


def test_the_axis_says_where_it_turns_logarithmic_and_the_legend_what_point_and_trail_are(records: list[RunRecord]):
    told = _texts(_plane(records))
    assert any("linear up to 5 %, logarithmic beyond" in text for text in told)
    assert {"point: certificate, audit texts", "trail: monitor, control texts"} <= set(told)
    near = replace(records[2], log=())
    assert not any("logarithmic" in text or "trail" in text for text in _texts(_plane([near])))


def test_the_picture_is_1200_pixels_wide_on_white_and_the_same_twice(folders: list[Path], tmp_path: Path):
    target = plane_picture(folders, tmp_path / "deep" / "plane.png")
    data = target.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1200, 720)
    assert plane_picture(folders, tmp_path / "again.png").read_bytes() == data
    assert [file.name for file in target.parent.iterdir()] == ["plane.png"]


def test_the_picture_as_svg_and_other_endings(folders: list[Path], tmp_path: Path):
    text = plane_picture(folders[:1], tmp_path / "plane.svg").read_text("utf-8")
    assert "<svg" in text
    assert ">plain</text>" in text
    with pytest.raises(BadInput, match=r"\.png or \.svg"):
        plane_picture(folders, tmp_path / "plane.pdf")
