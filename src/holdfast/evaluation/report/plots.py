"""Pictures of a run over its steps and over its layers: curves, the governor's marks, and how far each part moved."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from holdfast.evaluation.report.drawing import BUDGET, FAINT, GRID, HEAT, INK, STEPS, colour, dashes, percent_scale
from holdfast.evaluation.report.records import Entry, RunRecord, number, percent

# Each decision of the governor: its marker in the pictures and the same sign for the page's key.
ACTIONS = {
    "admitted": ("o", "\N{BLACK CIRCLE}"),
    "tightened": ("^", "\N{BLACK UP-POINTING TRIANGLE}"),
    "loosened": ("v", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    "walked back": ("<", "\N{BLACK LEFT-POINTING TRIANGLE}"),
    "stopped": ("X", "\N{HEAVY MULTIPLICATION X}"),
}
SIZE = (4.8, 3.0)
_COMPONENTS = ("embedding", "attention", "mlp", "norm", "adapter", "head", "other")


@dataclass(frozen=True)
class Picture:
    """A figure with the sentence that stands above it."""

    title: str
    figure: Figure


@dataclass(frozen=True)
class Curve:
    """One run's figures over its steps; `low` and `high` where an interval is known."""

    place: int
    steps: list[int]
    values: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


def curves(runs: Sequence[RunRecord]) -> list[Picture]:
    """Everything the logs follow over the steps, one picture each, drawn within `drawing.style`."""
    return [*_losses(runs), *_gains(runs), *_rises(runs), *_penalties(runs), *_strengths(runs)]


def _losses(runs: Sequence[RunRecord]) -> list[Picture]:
    found = _followed(runs, "loss")
    return [_picture("Training loss, nats per token", found, _last(runs))] if found else []


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
    lines = ((place, run.lines("train")) for place, run in enumerate(runs))
    return _known((place, [(line["step"], number(line, key)) for line in found]) for place, found in lines)


def _known(found: Iterable[tuple[int, list[tuple[int, float]]]]) -> list[Curve]:
    kept = [(place, [(s, v) for s, v in points if math.isfinite(v)]) for place, points in found]
    return [Curve(place, [s for s, _ in points], [v for _, v in points]) for place, points in kept if points]


def _looks(runs: Sequence[RunRecord], kind: str, text: str, key: str) -> list[Curve]:
    """A figure of the looks at one text with its interval, run by run; each begins at 0, where the base stands."""
    found = []
    for place, run in enumerate(runs):
        lines = [line for line in run.series(kind, text) if math.isfinite(number(line, key))]
        if lines:
            columns = ([0.0, *(number(line, k) for line in lines)] for k in (key, "low", "high"))
            found.append(Curve(place, [0, *(line["step"] for line in lines)], *columns))
    return found


def _picture(title: str, found: Sequence[Curve], last: int, *, zero: bool = False) -> Picture:
    figure, axes = _axes(last)
    for curve in found:
        _draw(axes, curve)
    if zero:
        axes.axhline(0, color=FAINT, linewidth=0.8)
    return Picture(title, figure)


def _axes(last: int) -> tuple[Figure, Axes]:
    """Empty axes over the steps from 0 to the last of all runs, so that pictures can be compared."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(STEPS)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.set_xlim(-0.02 * last, 1.02 * last)
    return figure, axes


def _last(runs: Sequence[RunRecord]) -> int:
    return max((run.log[-1]["step"] for run in runs if run.log), default=0) or 1


def _draw(axes: Axes, curve: Curve) -> None:
    hue = colour(curve.place)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.steps, curve.low, curve.high, color=hue, alpha=0.16, linewidth=0)
    point = "." if len(curve.steps) < 60 else None
    axes.plot(
        curve.steps, curve.values, color=hue, linestyle=dashes(curve.place), linewidth=1.6, marker=point, markersize=4
    )


def _rise(runs: Sequence[RunRecord], text: str) -> Picture:
    """The change of perplexity on one guarded text, its budget, and above it what the governor decided."""
    figure, axes = _axes(_last(runs))
    found = [_in_percent(curve) for curve in _looks(runs, "probe", text, "rise")]
    limits = sorted({round(percent(run.limits()[text]), 6) for run in runs if text in run.limits()})
    reach = [v for c in found for column in (c.values, c.low or [], c.high or []) for v in column]
    percent_scale(axes, "y", reach, limits)
    for curve in found:
        _draw(axes, curve)
    for limit in limits:
        axes.axhline(limit, color=BUDGET, linewidth=1.2)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    _marks(axes, runs)
    said = f"; the line is the budget of {' and '.join(f'{limit:g} %' for limit in limits)}" if limits else ""
    return Picture(f"Change of perplexity on {text}, %{said}", figure)


def _in_percent(curve: Curve) -> Curve:
    columns = ([percent(v) for v in column] for column in (curve.values, curve.low or [], curve.high or []))
    return Curve(curve.place, curve.steps, *columns)


def _marks(axes: Axes, runs: Sequence[RunRecord]) -> None:
    """Decisions above the axes: a row per run, and a further one where a step has several."""
    row = 0
    for place, run in enumerate(runs):
        rows: dict[int, int] = {}
        for line in run.lines("governor"):
            rows[line["step"]] = nth = rows.get(line["step"], -1) + 1
            shape = ACTIONS.get(str(line.get("action")), ("D", ""))[0]
            size = 3.2 if line.get("action") == "admitted" else 5.5
            height = 1.045 + 0.062 * (row + nth)
            axes.plot(
                [line["step"]], [height], shape, markersize=size, color=colour(place), markeredgewidth=0,
                clip_on=False, transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        row += max(rows.values(), default=-1) + 1


def _strength(runs: Sequence[RunRecord], name: str) -> Picture:
    """A rule's strength as the governor set it; logarithmic where it ranges widely."""
    figure, axes = _axes(_last(runs))
    found = _known(
        (place, [(line["step"], number(_strengths_of(line), name)) for line in run.lines("governor")])
        for place, run in enumerate(runs)
    )
    values = [value for curve in found for value in curve.values]
    for curve in found:
        axes.step(curve.steps, curve.values, where="post", color=colour(curve.place), linestyle=dashes(curve.place))
        axes.plot(curve.steps, curve.values, ".", color=colour(curve.place), markersize=4)
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    elif values:
        axes.set_ylim(bottom=min(0.0, *values))
    return Picture(f"Strength of {name}", figure)


def moved(run: RunRecord) -> dict[tuple[str, int | None], float]:
    """The last movement line by component and block: |w - base| / |base|; the block is None outside all blocks."""
    lines = run.lines("movement")
    groups = lines[-1].get("groups") if lines else None
    found: dict[tuple[str, int | None], float] = {}
    for name in groups if isinstance(groups, Mapping) else {}:
        block = re.fullmatch(r"layers\.(\d+) (.+)", name)
        key = (block[2], int(block[1])) if block else (name, None)
        found[key] = number(groups or {}, name)
    return {key: value for key, value in found.items() if math.isfinite(value)}


def movement(run: RunRecord, lowest: float, highest: float) -> Picture | None:
    """Blocks from bottom to top against components, darker where more moved; None where no movement was logged."""
    cells = moved(run)
    if not cells:
        return None
    rows = sorted({component for component, _ in cells}, key=lambda c: (c not in _COMPONENTS, _order(c), c))
    blocks = sorted({block for _, block in cells if block is not None})
    columns: list[int | None] = [*blocks, *([None] if any(block is None for _, block in cells) else [])]
    figure = Figure(figsize=(SIZE[0], 0.75 + 0.33 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(False)
    for (component, block), value in cells.items():
        _cell(axes, columns.index(block), rows.index(component), value, level(value, lowest, highest), len(columns))
    _label(axes, rows, columns)
    return Picture(run.name, figure)


def _order(component: str) -> int:
    return _COMPONENTS.index(component) if component in _COMPONENTS else len(_COMPONENTS)


def level(value: float, lowest: float, highest: float) -> float:
    """Depth of colour in [0, 1] on a logarithmic scale; 0 for what did not move at all."""
    if value <= 0:
        return 0.0
    span = math.log(highest / lowest) if highest > lowest > 0 else 0.0
    return 0.1 + 0.9 * (min(1.0, max(0.0, math.log(value / lowest) / span)) if span else 1.0)


def _cell(axes: Axes, x: int, y: int, value: float, depth: float, columns: int) -> None:
    axes.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=(*_rgb(HEAT), depth), edgecolor=GRID))
    if columns <= 9:
        said = "0" if value == 0 else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
        axes.text(x, y, said, ha="center", va="center", color=INK, size=8 if columns > 6 else 9)


def _rgb(hue: str) -> tuple[float, float, float]:
    return int(hue[1:3], 16) / 255, int(hue[3:5], 16) / 255, int(hue[5:7], 16) / 255


def _label(axes: Axes, rows: Sequence[str], columns: Sequence[int | None]) -> None:
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel="block, bottom to top")
    every = max(1, len(columns) // 12)
    shown = [i for i, block in enumerate(columns) if block is None or i % every == 0]
    axes.set_xticks(shown, ["outside" if columns[i] is None else str(columns[i]) for i in shown])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
