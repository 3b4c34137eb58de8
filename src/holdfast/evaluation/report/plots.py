"""Pictures over the steps: losses, gains, rises with the governor's marks, penalties and strengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from holdfast.evaluation.report.content import Picture
from holdfast.evaluation.report.drawing import BUDGET, FAINT, STEPS, colour, dashes, percent_scale
from holdfast.evaluation.report.headline import between, nats, share
from holdfast.evaluation.report.records import Entry, RunRecord, number, percent
from holdfast.evaluation.report.tips import tell

# Each decision of the governor, and an alarm: its marker in the pictures and the same sign for the page's key.
ACTIONS = {
    "admitted": ("o", "\N{BLACK CIRCLE}"),
    "tightened": ("^", "\N{BLACK UP-POINTING TRIANGLE}"),
    "loosened": ("v", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    "walked back": ("<", "\N{BLACK LEFT-POINTING TRIANGLE}"),
    "stopped": ("X", "\N{HEAVY MULTIPLICATION X}"),
    "alarm": ("*", "\N{BLACK STAR}"),
}
SIZE, ROW = (4.8, 3.0), 0.15  # of a picture, and the further height of a row of marks above it, in inches
_POINTS = 60  # of a curve that tell their value, at most


@dataclass(frozen=True)
class Curve:
    """One run's figures over its steps; `low` and `high` where an interval is known."""

    place: int
    name: str
    steps: list[int]
    values: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


@dataclass(frozen=True)
class Mark:
    """A decision of a run's governor, or an alarm, and the row above the picture in which it stands."""

    place: int
    step: int
    row: int
    action: str
    said: str


def curves(runs: Sequence[RunRecord]) -> list[Picture]:
    """Everything the logs follow over the steps, one picture each, drawn within `drawing.style`."""
    return [*_losses(runs), *_gains(runs), *_rises(runs), *_penalties(runs), *_strengths(runs)]


def _losses(runs: Sequence[RunRecord]) -> list[Picture]:
    found = _followed(runs, "loss")
    return [_picture("Training loss, nats per token, penalties included", found, _last(runs))] if found else []


def _gains(runs: Sequence[RunRecord]) -> list[Picture]:
    return [
        _picture(f"Gain on {text}, nats per token", _looks(runs, "learn", text, "gain"), _last(runs), zero=True)
        for text in _names(run.texts("learn") for run in runs)
    ]


def _rises(runs: Sequence[RunRecord]) -> list[Picture]:
    return [_rise(runs, text) for text in _names(run.texts("probe") for run in runs)]


def _penalties(runs: Sequence[RunRecord]) -> list[Picture]:
    keys = _names(sorted(k for line in run.lines("train") for k in line if k.startswith("penalty/")) for run in runs)
    titles = {key: f"Penalty of {key.removeprefix('penalty/')}, nats" for key in keys}
    return [_picture(title, _followed(runs, key), _last(runs)) for key, title in titles.items()]


def _strengths(runs: Sequence[RunRecord]) -> list[Picture]:
    names = _names(sorted(k for line in run.lines("governor") for k in _strengths_of(line)) for run in runs)
    return [_strength(runs, name) for name in names]


def _names(groups: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _strengths_of(line: Entry) -> Mapping[str, object]:
    strengths = line.get("strengths")
    return strengths if isinstance(strengths, Mapping) else {}


def _followed(runs: Sequence[RunRecord], key: str) -> list[Curve]:
    """A figure of the "train" lines, run by run."""
    return _known(runs, ([(line["step"], number(line, key)) for line in run.lines("train")] for run in runs))


def _known(runs: Sequence[RunRecord], found: Iterable[list[tuple[int, float]]]) -> list[Curve]:
    kept = ([(step, value) for step, value in points if math.isfinite(value)] for points in found)
    return [
        Curve(place, run.name, [step for step, _ in points], [value for _, value in points])
        for place, (run, points) in enumerate(zip(runs, kept, strict=True))
        if points
    ]


def _looks(runs: Sequence[RunRecord], kind: str, text: str, key: str) -> list[Curve]:
    """A figure of the looks at one text with its interval, run by run; each begins at 0, where the base stands."""
    found = []
    for place, run in enumerate(runs):
        lines = [line for line in run.series(kind, text) if math.isfinite(number(line, key))]
        if lines:
            columns = ([0.0, *(number(line, k) for line in lines)] for k in (key, "low", "high"))
            found.append(Curve(place, run.name, [0, *(line["step"] for line in lines)], *columns))
    return found


def _picture(title: str, found: Sequence[Curve], last: int, *, zero: bool = False) -> Picture:
    figure, axes = _axes(last)
    for curve in found:
        _draw(axes, curve, nats if zero else "{:.4g}".format)
    if zero:
        axes.axhline(0, color=FAINT, linewidth=0.8)
    return Picture(title, figure)


def _axes(last: int, strip: Sequence[Mark] = ()) -> tuple[Figure, Axes]:
    """Empty axes over the steps from 0 to the last of all runs, so that pictures can be compared; marks stand above."""
    rows = 1 + max((mark.row for mark in strip), default=-1)
    width, height = SIZE
    figure = Figure(figsize=(width, height + ROW * rows), layout="constrained")
    if rows:
        above, axes = figure.subplots(2, height_ratios=[ROW * rows, height], sharex=True)
        _strip(above, strip, rows)
    else:
        axes = figure.add_subplot()
    axes.set_xlabel(STEPS)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.set_xlim(-0.02 * last, 1.02 * last)
    return figure, axes


def _last(runs: Sequence[RunRecord]) -> int:
    return max((run.log[-1]["step"] for run in runs if run.log), default=0) or 1


def _draw(axes: Axes, curve: Curve, form: Callable[[float], str]) -> None:
    hue = colour(curve.place)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.steps, curve.low, curve.high, color=hue, alpha=0.16, linewidth=0)
    point = "." if len(curve.steps) < 60 else None
    axes.plot(
        curve.steps, curve.values, color=hue, linestyle=dashes(curve.place), linewidth=1.6, marker=point, markersize=4
    )
    _say(axes, curve, form)


def _say(axes: Axes, curve: Curve, form: Callable[[float], str]) -> None:
    """The value of each point, or of as many as can be pointed at, with its interval."""
    for i in range(0, len(curve.steps), math.ceil(len(curve.steps) / _POINTS)):
        ends = "" if not (curve.low and curve.high) else f" {between(curve.low[i], curve.high[i], form)}"
        text = f"{curve.name}, step {curve.steps[i]}: {form(curve.values[i])}{ends}"
        tell(axes, curve.steps[i], curve.values[i], text)


def _rise(runs: Sequence[RunRecord], text: str) -> Picture:
    """The change of perplexity on one guarded text, its budget, and above it what the governor decided."""
    figure, axes = _axes(_last(runs), strip=_decided(runs, text))
    found = [_in_percent(curve) for curve in _looks(runs, "probe", text, "rise")]
    limits = sorted({round(percent(run.limits()[text]), 6) for run in runs if text in run.limits()})
    reach = [v for c in found for column in (c.values, c.low or [], c.high or []) for v in column]
    percent_scale(axes, "y", reach, limits)
    for curve in found:
        _draw(axes, curve, share)
    for limit in limits:
        axes.axhline(limit, color=BUDGET, linewidth=1.2)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    said = f"; the line is the budget of {' and '.join(f'{limit:g} %' for limit in limits)}" if limits else ""
    return Picture(f"Change of perplexity on {text}, %{said}", figure)


def _in_percent(curve: Curve) -> Curve:
    columns = ([percent(v) for v in column] for column in (curve.values, curve.low or [], curve.high or []))
    return Curve(curve.place, curve.name, curve.steps, *columns)


def _decided(runs: Sequence[RunRecord], text: str) -> list[Mark]:
    """Decisions, and alarms about a text, from the lowest row up: a row per run, and more where a step has several."""
    marks: list[Mark] = []
    for place, run in enumerate(runs):
        first = 1 + max((mark.row for mark in marks), default=-1)
        taken: dict[int, int] = {}
        alarms = [line for line in run.lines("alarm") if str(line.get("text")) == text]
        for line in [*run.lines("governor"), *alarms]:
            row = taken[line["step"]] = taken.get(line["step"], first - 1) + 1
            action = str(line.get("action", line["kind"]))
            said = f"{run.name}, step {line['step']}: {action} {line.get('reason') or ''}".strip()
            marks.append(Mark(place, line["step"], row, action, said))
    return marks


def _strip(axes: Axes, marks: Sequence[Mark], rows: int) -> None:
    axes.set_axis_off()
    axes.set_ylim(-0.5, rows - 0.5)
    steps: dict[tuple[int, int, str], list[int]] = {}
    for mark in marks:
        tell(axes, mark.step, mark.row, mark.said)
        steps.setdefault((mark.place, mark.row, mark.action), []).append(mark.step)
    for (place, row, action), found in steps.items():
        size = 3.2 if action == "admitted" else 5.5
        shape, hue = ACTIONS.get(action, ("D", ""))[0], colour(place)
        axes.plot(found, [row] * len(found), shape, markersize=size, color=hue, markeredgewidth=0, clip_on=False)


def _strength(runs: Sequence[RunRecord], name: str) -> Picture:
    """A rule's strength as the governor set it; logarithmic where it ranges widely."""
    figure, axes = _axes(_last(runs))
    looks = ([(line["step"], number(_strengths_of(line), name)) for line in run.lines("governor")] for run in runs)
    found = _known(runs, looks)
    values = [value for curve in found for value in curve.values]
    for curve in found:
        axes.step(curve.steps, curve.values, where="post", color=colour(curve.place), linestyle=dashes(curve.place))
        axes.plot(curve.steps, curve.values, ".", color=colour(curve.place), markersize=4)
        _say(axes, curve, "{:.4g}".format)
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    elif values:
        axes.set_ylim(bottom=min(0.0, *values))
    return Picture(f"Strength of {name}", figure)
