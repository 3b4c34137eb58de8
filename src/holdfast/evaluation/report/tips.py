"""What a page says when a reader points at a place of a picture: invisible marks with a tooltip each."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_RADIUS = 5.0  # points; as much as a finger and its picture allow


@dataclass(frozen=True)
class _Tip:
    axes: Axes
    x: float
    y: float
    text: str
    extent: tuple[float, float] | None


_TOLD: WeakKeyDictionary[Any, list[_Tip]] = WeakKeyDictionary()


def tell(axes: Axes, x: float, y: float, text: str, extent: tuple[float, float] | None = None) -> None:
    """Say this at a place of a picture, or over a cell of this width and height around it, all in data units."""
    if math.isfinite(x) and math.isfinite(y):
        _TOLD.setdefault(axes.figure, []).append(_Tip(axes, x, y, text, extent))


def tips(figure: Figure) -> str:
    """The marks of a figure that was drawn as SVG, as elements of that SVG."""
    marks = "".join(_mark(figure, tip) for tip in _TOLD.get(figure, ()))
    return f'<g class="tips">{marks}</g>' if marks else ""


def _mark(figure: Figure, tip: _Tip) -> str:
    title = f"<title>{html.escape(tip.text)}</title>"
    if tip.extent is None:
        left, top = _point(figure, tip.axes, tip.x, tip.y)
        return f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{_RADIUS:g}">{title}</circle>'
    wide, high = tip.extent[0] / 2, tip.extent[1] / 2
    one = _point(figure, tip.axes, tip.x - wide, tip.y - high)
    two = _point(figure, tip.axes, tip.x + wide, tip.y + high)
    (left, right), (top, low) = sorted((one[0], two[0])), sorted((one[1], two[1]))
    corner = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{low - top:.1f}"'
    return f"<rect {corner}>{title}</rect>"


def _point(figure: Figure, axes: Axes, x: float, y: float) -> tuple[float, float]:
    """A place in data units as points from the upper left corner."""
    right, up = figure.transFigure.inverted().transform(axes.transData.transform((x, y)))
    wide, high = 72 * figure.get_size_inches()
    return float(right * wide), float((1 - up) * high)
