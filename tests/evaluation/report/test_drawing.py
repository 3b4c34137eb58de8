"""SVG for the page: its own ids, the page's colours and fonts, nothing fetched, the same text twice."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from holdfast.evaluation.report import drawing
from holdfast.evaluation.report.drawing import COLOURS, INK, colour, dashes, inline, marker, percent_scale, style, write


def _drawn(name: str, label: str = "a line") -> str:
    with style():
        figure = Figure()
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], marker="o", color=colour(1))
        axes.set_xlabel("steps <b>&", color=INK)
        axes.text(0.2, 0.5, "解冻 $x_1$", weight="bold")
        return inline(figure, name, label)


def test_the_drawing_is_well_formed_and_says_what_it_shows():
    root = ElementTree.fromstring(_drawn("one", 'a "line" & more'))
    assert (root.tag, root.get("role"), root.get("aria-label")) == ("svg", "img", 'a "line" & more')
    assert root.get("viewBox")
    assert root.get("width") is None


def test_ids_of_two_drawings_do_not_meet():
    found = [set(re.findall(r'\bid="([^"]*)"', _drawn(name))) for name in ("one", "two")]
    assert all(found)
    assert not found[0] & found[1]
    references = set(re.findall(r'(?:url\(#|href="#)([^")]*)', _drawn("one")))
    assert references
    assert references <= found[0]


def test_text_stays_text_and_is_escaped():
    text = "".join(ElementTree.fromstring(_drawn("one")).itertext())
    assert "解冻 $x_1$" in text
    assert "steps <b>&" in text


def test_colours_and_font_are_the_pages():
    drawn = _drawn("one")
    assert "stroke: var(--run-1)" in drawn
    assert "fill: var(--ink)" in drawn
    assert "var(--sans)" in drawn
    assert "DejaVu" not in drawn
    assert not re.findall(r"(?:fill|stroke): #", drawn)


def test_nothing_is_fetched_and_nothing_leaks_into_the_page():
    drawn = _drawn("one")
    assert "http" not in drawn
    assert "<style" not in drawn
    assert "<metadata" not in drawn


def test_the_same_figure_gives_the_same_text():
    assert _drawn("one") == _drawn("one")


def test_runs_keep_apart_after_the_palette_is_used_up():
    seen = {(colour(i), marker(i), str(dashes(i))) for i in range(12)}
    assert len(seen) == 12
    assert len(set(map(colour, range(len(COLOURS))))) == len(COLOURS)


def _axis(values: list[float], limits: list[float]) -> Axes:
    axes = Figure().add_subplot()
    percent_scale(axes, "x", values, limits)
    return axes


def _places(axes: Axes, values: list[float]) -> list[float]:
    """Where values stand along the axis, from 0 at its beginning to 1 at its end."""
    points = axes.transData.transform([(value, 0.0) for value in values])
    return [float(x) for x, _ in axes.transAxes.inverted().transform(points)]


def test_the_scale_shows_two_and_five_hundred_per_cent_apart():
    axes = _axis([1.8, 500.0], [2.0])
    low, high = axes.get_xlim()
    places = _places(axes, [0.0, 1.8, 2.0, 500.0])
    assert low < 0 < 500 < high
    assert places[1] - places[0] > 0.1
    assert places[2] - places[1] > 0.01
    assert places[3] < 1


@pytest.mark.parametrize("values", [[], [0.0], [-30.0, 4.0], [1e6], [float("nan"), float("inf"), 1.0], [-0.2, 0.1]])
def test_ticks_stand_inside_and_apart(values: list[float]):
    axes = _axis(values, [2.0])
    ticks = axes.get_xticks()
    places = _places(axes, list(ticks))
    assert 0.0 in ticks
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert all(right - left > 0.07 for left, right in pairwise(places))


def test_tick_labels_carry_their_sign():
    axes = _axis([-30.0, 1e4], [2.0])
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert "0" in labels
    assert "+10,000" in labels
    assert "−10" in labels or "−20" in labels


@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_chinese_is_drawn_where_no_chinese_font_is_installed(
    weight: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(drawing, "_SANS", drawing._SANS[:2])
    missing = {}
    for text in ("受约束的训练，保留《知识》：（１）", "\N{CJK UNIFIED IDEOGRAPH-9F98}"):
        with style(), warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            figure = Figure(figsize=(3, 1))
            figure.text(0.1, 0.5, text, weight=weight)
            write(figure, tmp_path / "picture.png")
        missing[text[0]] = [str(warning.message) for warning in seen]
    assert missing["受"] == [] and "missing" in missing["龘"][0] and caplog.messages == []


def test_the_font_has_its_licence_beside_it():
    fonts = Path(drawing.__file__).parent / "fonts"
    assert "SIL OPEN FONT LICENSE Version 1.1" in (fonts / "LICENCE").read_text("utf-8")
    assert (fonts / "HoldfastHan-Regular.otf").stat().st_size < 1.5e6
