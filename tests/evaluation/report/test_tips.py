"""Values by pointing: marks stand where the drawing stands."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from holdfast.evaluation.report.drawing import inline, style
from holdfast.evaluation.report.tips import tell


def _drawn(*told: tuple[float, float, str], extent: tuple[float, float] | None = None) -> ElementTree.Element:
    with style():
        figure = Figure(figsize=(4, 3), layout="constrained")
        axes: Axes = figure.add_subplot()
        axes.plot([x for x, *_ in told], [y for _, y, _ in told], "o")
        for x, y, text in told:
            tell(axes, x, y, text, extent)
        return ElementTree.fromstring(re.sub(r"\sxmlns=\S+", "", inline(figure, "one", "points")))


def test_a_mark_lies_over_its_point():
    root = _drawn((1.0, 5.0, "first <"), (3.0, 2.0, "second"))
    marks = [(float(c.get("cx", "")), float(c.get("cy", "")), c.findtext("title")) for c in root.iter("circle")]
    points = [(float(u.get("x", "")), float(u.get("y", ""))) for u in root.iter("use") if u.get("style")]
    assert [text for *_, text in marks] == ["first <", "second"]
    for (x, y, _), (right, down) in zip(marks, points[-2:], strict=True):
        assert math.dist((x, y), (right, down)) < 0.2


def test_a_cell_is_a_rectangle_of_its_extent():
    (found,) = _drawn((1.0, 5.0, "cell"), extent=(0.01, 0.1)).findall(".//*[@class='tips']/rect")
    assert float(found.get("width", "")) > 0 and float(found.get("height", "")) > 0


def test_what_has_no_place_tells_nothing_and_no_mark_no_group():
    assert not _drawn((1.0, math.nan, "nowhere")).findall(".//*[@class='tips']")
