"""Pictures over the layers: a figure for each part of a model, such as how far it moved from the base."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from holdfast.evaluation.report.drawing import GRID, HEAT, INK
from holdfast.evaluation.report.records import RunRecord, number
from holdfast.evaluation.report.tips import tell

Part = tuple[str, int | None]  # a component and its block; None: it stands in no block
_COMPONENTS = ("embedding", "attention", "mlp", "norm", "adapter", "head", "other")
_WIDTH, _ROW, _READABLE = 4.8, 0.33, 9  # inches; as many columns leave room for figures


def parts(run: RunRecord, kind: str = "movement") -> dict[Part, float]:
    """The last line of a kind: a figure of each part, such as its movement |w - base| / |base|."""
    lines = run.lines(kind)
    groups = lines[-1].get("groups") if lines else None
    found: dict[Part, float] = {}
    for name in groups if isinstance(groups, Mapping) else {}:
        block = re.fullmatch(r"layers\.(\d+) (.+)", name)
        found[(block[2], int(block[1])) if block else (name, None)] = number(groups or {}, name)
    return {part: value for part, value in found.items() if math.isfinite(value)}


def level(value: float, lowest: float, highest: float) -> float:
    """Depth of colour in [0, 1] on a logarithmic scale; 0 for what did not move at all."""
    if value <= 0:
        return 0.0
    span = math.log(highest / lowest) if highest > lowest > 0 else 0.0
    return 0.1 + 0.9 * (min(1.0, max(0.0, math.log(value / lowest) / span)) if span else 1.0)


def layer_map(run: RunRecord, kind: str, lowest: float, highest: float) -> Figure | None:
    """The heat map of the last line of a kind; None where nothing was logged."""
    found = dict(sorted(parts(run, kind).items(), key=lambda part: _order(part[0][0])))
    return heat_map(found, lowest, highest) if found else None


def heat_map(parts: Mapping[Part, float], lowest: float, highest: float) -> Figure:
    """Blocks from bottom to top against components in the order given, deeper in colour where the figure is larger.

    The colour runs from `lowest` to `highest`. Drawn within `drawing.style`.
    """
    rows = list(dict.fromkeys(component for component, _ in parts))
    blocks = sorted({block for _, block in parts if block is not None})
    outside = max(1.0, len(blocks) / 7)  # the width of the last column, which needs room for its name
    figure = Figure(figsize=(_WIDTH, 0.75 + _ROW * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for (component, block), value in parts.items():
        left, wide = (len(blocks) + 0.2, outside) if block is None else (float(blocks.index(block)), 1.0)
        said = _figure(value) if block is None or len(blocks) < _READABLE else ""
        row = rows.index(component)
        _cell(axes, (left, row), wide, level(value, lowest, highest), said)
        where = component if block is None else f"block {block}, {component}"
        tell(axes, left + wide / 2, row + 0.5, f"{where}: {value:.3g}", (wide, 1.0))
    _name(axes, rows, blocks, outside if any(block is None for _, block in parts) else 0.0)
    return figure


def _order(component: str) -> tuple[int, str]:
    return _COMPONENTS.index(component) if component in _COMPONENTS else len(_COMPONENTS), component


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _cell(axes: Axes, corner: tuple[float, int], wide: float, depth: float, said: str) -> None:
    left, row = corner
    hue = (*to_rgb(HEAT), depth)
    axes.add_patch(Rectangle((left + 0.03, row + 0.05), wide - 0.06, 0.9, facecolor=hue, edgecolor=GRID))
    if said:
        axes.text(left + wide / 2, row + 0.5, said, ha="center", va="center", color=INK, size=8.5)


def _name(axes: Axes, rows: Sequence[str], blocks: Sequence[int], outside: float) -> None:
    axes.set(xlim=(0, len(blocks) + (outside and 0.2 + outside)), ylim=(len(rows), 0), xlabel="block, bottom to top")
    shown = range(0, len(blocks), math.ceil(len(blocks) / 10) or 1)
    ticks, names = [i + 0.5 for i in shown], [str(blocks[i]) for i in shown]
    if outside:
        ticks, names = [*ticks, len(blocks) + 0.2 + outside / 2], [*names, "outside"]
    axes.set_xticks(ticks, names)
    axes.set_yticks([row + 0.5 for row in range(len(rows))], list(rows))
    axes.tick_params(length=0)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
