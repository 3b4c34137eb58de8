"""How pictures are drawn: one calm style, one colour per run, and SVG that takes its colours from its page."""

from __future__ import annotations

import html
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from holdfast._errors import BadInput
from holdfast.evaluation.report.tips import tips

INK, FAINT, GRID, BUDGET, HEAT = "#1b1b1f", "#73737c", "#e1e1e6", "#a8324a", "#eda63a"
# Okabe and Ito's palette, told apart by colour-blind readers; markers and dashes say the same without any colour.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (6, 1.6)), (0, (1.6, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
STEPS = "optimiser steps"
# What stands in the drawing, and the name under which the page's style sheet knows it.
_VARIABLES = {INK: "ink", FAINT: "faint", GRID: "grid", BUDGET: "budget", HEAT: "heat"} | {
    colour: f"run-{i}" for i, colour in enumerate(COLOURS)
}
# matplotlib brings the first, we the second: a picture is the same everywhere, but for characters that are in neither.
_SANS = ("DejaVu Sans", "Holdfast Han", "Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei")


def colour(place: int) -> str:
    """The colour of the run at this place of the page, everywhere."""
    return COLOURS[place % len(COLOURS)]


def marker(place: int) -> str:
    """The shape of that run's points."""
    return MARKERS[place % len(MARKERS)]


def dashes(place: int) -> str | tuple[int, tuple[float, ...]]:
    """The line style of that run."""
    return DASHES[place % len(DASHES)]


@cache
def _register() -> None:
    """Bring matplotlib the font of Chinese labels."""
    font = resources.files("holdfast.evaluation.report") / "fonts" / "HoldfastHan-Regular.otf"
    with resources.as_file(font) as file:
        font_manager.fontManager.addfont(file)
    known = font_manager.fontManager.ttflist
    known.append(replace(known[-1], weight=700))  # else each bold label in Chinese is warned about


@contextmanager
def style() -> Iterator[None]:
    """The style in which figures are made and written; a glyph that no font here has is left to the reader's fonts."""
    _register()
    installed = set(font_manager.get_font_names())
    look: Any = {
        "font.family": [name for name in _SANS if name in installed],
        "font.size": 9.5,
        "text.parse_math": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "figure.facecolor": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "holdfast",
    }
    with rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def inline(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element for an HTML page, read out as `label`, with a tooltip wherever `tell` put one.

    Its ids begin with `name`, so that several stand on one page; its colours and its font are the page's variables;
    the same figure gives the same text.
    """
    out = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'\sid="', f' id="{name}-', text).replace("url(#", f"url(#{name}-")
    text = text.replace('xlink:href="#', f'href="#{name}-')
    text = re.sub(r"\b(fill|stroke): (#[0-9a-f]{6})\b", _variable, text)
    text = re.sub(r"font: ((?:\w+ )*[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    head = f'<svg role="img" aria-label="{html.escape(label)}" {box.group()}>'
    return head + text[text.index(">") + 1 :].strip().removesuffix("</svg>") + tips(figure) + "</svg>"


def picture_file(target: str | Path) -> Path:
    """Where a picture goes; raises BadInput unless its name ends in .png or .svg."""
    target = Path(target)
    if target.suffix.lower() not in (".png", ".svg"):
        raise BadInput(f"{target} must end in .png or .svg.")
    return target


def write(figure: Figure, target: Path) -> Path:
    """Write a figure on white as a file of its own, within `style`: the same figure gives the same bytes."""
    kind = target.suffix.lstrip(".").lower()
    undated = {"Date": None} if kind == "svg" else {"Software": None}
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.part")
    figure.savefig(half, format=kind, dpi=150, facecolor="white", metadata=undated)
    os.replace(half, target)
    return target


def _variable(found: re.Match[str]) -> str:
    name = _VARIABLES.get(found[2])
    return f"{found[1]}: var(--{name})" if name else found[0]


def percent_scale(
    axes: Axes,
    which: Literal["x", "y"],
    values: Iterable[float],
    limits: Sequence[float],
    gap: float = 0.075,
    margin: float = 0.07,
) -> float | None:
    """Give an axis of perplexity changes in per cent: linear around the budgets, logarithmic beyond them.

    So +1.8 % beside a budget of 2 % and +500 % are read off the same axis. Ticks stand `gap` of it apart, or more, and
    `margin` of it is left free at each end. Returns where the linear part ends, None where nothing lies beyond it.
    """
    scale, bounds = (axes.set_xscale, axes.set_xlim) if which == "x" else (axes.set_yscale, axes.set_ylim)
    linear = 2.5 * max(limits, default=2.0)
    scale("symlog", linthresh=linear, linscale=1.2)
    axis = axes.xaxis if which == "x" else axes.yaxis
    transform = axis.get_transform()
    shown = [v for v in (0.0, *values, *limits) if math.isfinite(v)]
    low, high = transform.transform(np.array([min(shown), max(shown)]))
    pad = margin * max(high - low, 1e-9)
    edges = transform.inverted().transform(np.array([low - pad, high + pad]))
    bounds(edges[0], edges[1])
    ticks = _ticks(edges[0], edges[1], lambda v: float(transform.transform(np.array([v]))[0]), gap)
    axis.set_ticks([], minor=True)
    axis.set_ticks(ticks, labels=[_tick(t) for t in ticks])
    return linear if max(map(abs, shown)) > linear else None


def _tick(value: float) -> str:
    return ("\N{MINUS SIGN}" if value < 0 else "+" if value else "") + f"{abs(value):,.6g}"


def _ticks(low: float, high: float, place: Callable[[float], float], gap: float) -> list[float]:
    """Round values from 0 outwards that stand at least `gap` of the axis apart."""
    room = gap * (place(high) - place(low))
    ticks = [0.0]
    for sign, edge in ((1, high), (-1, low)):
        last = 0.0
        for value in (sign * m * 10.0**e for e in range(-3, 9) for m in (1, 2, 5)):
            if abs(place(value) - place(last)) >= room and abs(value) <= abs(edge) and sign * edge > 0:
                ticks.append(value)
                last = value
    return sorted(ticks)
