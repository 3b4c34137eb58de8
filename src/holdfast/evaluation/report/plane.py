"""The learning-versus-keeping plane: what each run gained on the new text and lost on the old, with its way there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from holdfast._errors import BadInput
from holdfast.evaluation.report.drawing import (
    BUDGET,
    FAINT,
    INK,
    colour,
    dashes,
    marker,
    percent_scale,
    picture_file,
    style,
    write,
)
from holdfast.evaluation.report.headline import nats, share
from holdfast.evaluation.report.records import Entry, RunRecord, number, percent, read_runs
from holdfast.evaluation.report.tips import tell

_DIRECTIONS = (
    *((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)),
    *((right, up) for up in (1, -1) for right in (0.5, -0.5)),
)


@dataclass(frozen=True)
class Point:
    """A place in the plane: change of perplexity in per cent on the worst guarded text, gain in nats per token."""

    forgetting: float
    gain: float
    bars: tuple[float, float, float, float] | None = None  # low and high of the forgetting, low and high of the gain

    @property
    def known(self) -> bool:
        """Whether it can be drawn."""
        return math.isfinite(self.forgetting) and math.isfinite(self.gain)


@dataclass(frozen=True)
class Track:
    """A run in the plane: where it ended, the way there from (0, 0), and whether the end was audited."""

    run: RunRecord
    place: int
    end: Point
    way: tuple[Point, ...]
    audited: bool


def tracks(runs: Sequence[RunRecord]) -> list[Track]:
    """The runs that have a place in the plane; where there is no certificate, the last look stands for the end."""
    found = []
    for place, run in enumerate(runs):
        way = tuple(point for point in (Point(0.0, 0.0), *_way(run)) if point.known)
        audited = _point(run, run.audited("kept"), run.audited("learnt"))
        if audited is not None and audited.known:
            found.append(Track(run, place, audited, way, True))
        elif len(way) > 1:
            found.append(Track(run, place, way[-1], way, False))
    return found


def _way(run: RunRecord) -> list[Point]:
    """A point a look at the new text, beside the latest looks at the guarded texts up to then."""
    learnt = [run.series("learn", text) for text in run.texts("learn")]
    kept = [run.series("probe", text) for text in run.texts("probe")]
    found = []
    for step in sorted({line["step"] for lines in learnt for line in lines}):
        new, old = ([_latest(lines, step) for lines in looks] for looks in (learnt, kept))
        if all(new) and all(old):
            found.append(_point(run, [line for line in old if line], [line for line in new if line]))
    return [point for point in found if point is not None]


def _latest(lines: Sequence[Entry], step: int) -> Entry | None:
    return next((line for line in reversed(lines) if line["step"] <= step), None)


def _point(run: RunRecord, kept: Sequence[Entry], learnt: Sequence[Entry]) -> Point | None:
    old = run.worst(kept)
    if old is None or not learnt:
        return None
    gain, low, high = (fmean(number(entry, key) for entry in learnt) for key in ("gain", "low", "high"))
    bars = (percent(number(old, "low")), percent(number(old, "high")), low, high)
    return Point(percent(number(old, "rise")), gain, bars)


def budgets(runs: Sequence[RunRecord]) -> list[float]:
    """The budgets of all runs as changes of perplexity in per cent, each once."""
    return sorted({round(percent(limit), 6) for run in runs for limit in run.limits().values()})


def plane(runs: Sequence[RunRecord], *, width: float = 8.6, height: float = 5.2) -> Figure | None:
    """The plane as a figure of so many inches; None where no run has a place in it. Drawn within `drawing.style`."""
    shown = tracks(runs)
    if not shown:
        return None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _axes(axes, shown, runs, narrow=width < 6)
    for track in shown:
        _draw(axes, track)
    _legend(figure, shown, narrow=width < 6)
    figure.draw_without_rendering()  # settles the layout, so that labels can be placed in pixels
    _name(figure, axes, shown)
    return figure


def _axes(axes: Axes, shown: Sequence[Track], runs: Sequence[RunRecord], narrow: bool) -> None:
    limits = budgets(runs)
    points = [point for track in shown for point in (track.end, *track.way)]
    reach = [point.forgetting for point in points] + [bar for t in shown for bar in (t.end.bars or ())[:2]]
    linear = percent_scale(axes, "x", reach, limits, gap=0.13 if narrow else 0.075, margin=0.1)
    for limit in limits:
        axes.axvline(limit, color=BUDGET, linewidth=1.2, zorder=1.5)
    if limits:
        said = " and ".join(f"{limit:g} %" for limit in limits)
        axes.text(max(limits), 1.015, f"budget {said}", color=BUDGET, ha="center", transform=axes.get_xaxis_transform())
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    texts = list(dict.fromkeys(str(e.get("text")) for r in runs for e in r.audited("learnt") or r.lines("learn")))
    on = texts[0] if len(texts) == 1 else f"{len(texts)} new texts"
    axes.set_ylabel(f"gain on {on}\n(nats per token)" if narrow else f"learning: gain on {on} (nats per token)")
    what = "change of perplexity (%)\non the worst guarded text"
    note = "" if linear is None else f"\n(linear up to {linear:g} %, logarithmic beyond)"
    axes.set_xlabel((what if narrow else f"forgetting: {what.replace(chr(10), ' ')}") + note)


def _draw(axes: Axes, track: Track) -> None:
    hue, end = colour(track.place), track.end
    way = track.way if track.audited else (*track.way[:-1], end)
    x, y = [p.forgetting for p in way], [p.gain for p in way]
    axes.plot(x, y, color=hue, alpha=0.42, linewidth=1.1, linestyle=dashes(track.place), marker=".", markersize=4)
    if end.bars is not None and all(map(math.isfinite, end.bars)):
        left, right, low, high = end.bars
        sides = ([max(0.0, end.forgetting - left)], [max(0.0, right - end.forgetting)])
        heights = ([max(0.0, end.gain - low)], [max(0.0, high - end.gain)])
        axes.errorbar([end.forgetting], [end.gain], heights, sides, color=hue, linewidth=1.4, capsize=3, zorder=3)
    face, shape = hue if track.audited else "none", marker(track.place)
    axes.plot([end.forgetting], [end.gain], shape, color=hue, markerfacecolor=face, markersize=8, zorder=4)
    for point in (*way, end):
        tell(axes, point.forgetting, point.gain, f"{track.run.name}: {_said(point)}")


def _said(point: Point) -> str:
    return f"forgetting {share(point.forgetting)}, gain {nats(point.gain)} nats"


def _legend(figure: Figure, shown: Sequence[Track], narrow: bool) -> None:
    """What points and trails are: they come from different texts, so that a trail need not end at its point."""
    point = Line2D(
        [], [], color=FAINT, marker="o", linestyle="none", markersize=7, label="point: certificate, audit texts"
    )
    trail = Line2D([], [], color=FAINT, marker=".", linewidth=1.1, markersize=4, label="trail: monitor, control texts")
    found = [point] * any(track.audited for track in shown) + [trail] * any(len(track.way) > 1 for track in shown)
    if found:
        figure.legend(handles=found, loc="outside lower center", ncols=1 if narrow else 2, frameon=False, fontsize=8.5)


def _name(figure: Figure, axes: Axes, shown: Sequence[Track]) -> None:
    """Write each run's name beside its point, where it covers least of what is drawn."""
    pixel = figure.dpi / 72
    axes.set_ylim(axes.get_ylim())  # what is drawn from here on does not move what stands
    taken = [_box(axes, point, 9 * pixel) for track in shown for point in (track.end,)]
    taken += [_box(axes, point, 3 * pixel) for track in shown for point in track.way]
    taken += [_bars(axes, track.end).padded(5 * pixel) for track in shown if track.end.bars is not None]
    taken += [_upright(axes, limit) for limit in (0.0, *budgets([track.run for track in shown]))]
    for track in shown:
        name = track.run.name if track.audited else f"{track.run.name} (not audited)"
        label = axes.text(track.end.forgetting, track.end.gain, name, color=INK, weight="bold", zorder=5)
        label.set_in_layout(False)
        size = label.get_window_extent()
        x, y = _free(axes, track.end, size.width, size.height, taken, pixel)
        box = Bbox.from_bounds(x, y, size.width, size.height)
        corner = axes.transData.inverted().transform((x, y))
        label.set_position((float(corner[0]), float(corner[1])))
        _lead(axes, track, box, 20 * pixel)
        taken.append(box.padded(3 * pixel))


def _lead(axes: Axes, track: Track, box: Bbox, near: float) -> None:
    """A thin line from a point to its name where the name stands further away than `near` pixels."""
    x, y = axes.transData.transform((track.end.forgetting, track.end.gain))
    edge = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
    if math.dist(edge, (x, y)) > near:
        ends = axes.transData.inverted().transform([(x, y), edge])
        axes.plot(ends[:, 0], ends[:, 1], color=colour(track.place), linewidth=0.8, zorder=2.5)


def _free(
    axes: Axes, point: Point, wide: float, high: float, taken: Sequence[Bbox], pixel: float
) -> tuple[float, float]:
    """Lower left corner, in pixels, of the place beside a point that is near and covers little."""
    x, y = axes.transData.transform((point.forgetting, point.gain))
    inside = axes.get_window_extent().padded(-5 * pixel)
    best, cost = (x, y), math.inf
    for far in (9 * pixel, 18 * pixel, 30 * pixel, 44 * pixel, 60 * pixel, 80 * pixel):
        for right, up in _DIRECTIONS:
            left = x + right * far - (wide / 2) * (1 - right)
            low = y + up * far - (high / 2) * (1 - up)
            price = _covered(Bbox.from_bounds(left, low, wide, high), taken, inside) + 12 * far
            if price < cost:
                best, cost = (left, low), price
    return best


def _covered(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> float:
    """Area that a label covers, weighed against its distance, and what of it stands outside tenfold; square pixels."""
    x0, y0, x1, y1 = box.extents
    outside = (x1 - x0) * (y1 - y0) - _common(x0, y0, x1, y1, inside)
    return 30 * (10 * outside + sum(_common(x0, y0, x1, y1, other) for other in taken))


def _common(x0: float, y0: float, x1: float, y1: float, other: Bbox) -> float:
    left, low, right, high = other.extents
    return float(max(0.0, min(x1, right) - max(x0, left)) * max(0.0, min(y1, high) - max(y0, low)))


def _box(axes: Axes, point: Point, half: float) -> Bbox:
    x, y = axes.transData.transform((point.forgetting, point.gain))
    return Bbox.from_extents(x - half / 2, y - half / 2, x + half / 2, y + half / 2)


def _upright(axes: Axes, value: float) -> Bbox:
    """Thinner than it is drawn: rather than far from its point, a name may stand on a line."""
    x, _ = axes.transData.transform((value, 0.0))
    return Bbox.from_extents(x - 0.2, axes.bbox.y0, x + 0.2, axes.bbox.y1)


def _bars(axes: Axes, point: Point) -> Bbox:
    assert point.bars is not None
    left, right, low, high = point.bars
    return Bbox.from_extents(*axes.transData.transform((left, low)), *axes.transData.transform((right, high)))


def plane_picture(runs: Sequence[RunRecord | str | Path], target: str | Path) -> Path:
    """Write the plane alone as a PNG 1,200 pixels wide, or as an SVG, on white.

    Raises BadInput for another ending, and where no run has anything to show in the plane.
    """
    target = picture_file(target)
    with style():
        figure = plane(read_runs(runs), width=8.0, height=4.8)
        if figure is None:
            raise BadInput("None of these runs has measured a gain and a loss yet: there is no point to draw.")
        return write(figure, target)
