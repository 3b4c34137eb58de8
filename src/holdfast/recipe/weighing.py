"""Which parts of a model matter most to a text, by any score of importance, as figures and as tables."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text as Words

from holdfast._errors import BadInput
from holdfast.adapters.stored import load_adapted
from holdfast.base import Base, load_base
from holdfast.data.formats import read
from holdfast.data.probes import SELF
from holdfast.data.rows import Batch, collate
from holdfast.params.importance import Level, levels, per_tensor, scores
from holdfast.params.inventory import COMPONENTS, Param, inventory
from holdfast.params.select import matched, parse
from holdfast.recipe.reading import Reader

Part = tuple[str, int | None]
"""A component and its block, None outside the blocks."""

MARKS = {Level.CRITICAL: "█", Level.IMPORTANT: "▓", Level.MODERATE: "▒", Level.LOW: "░"}
BATCH = 8
"""Rows in a batch; it changes the memory that is needed, and no figure."""


@dataclass(frozen=True)
class Weighed:
    """The importance of every tensor and part of a model, each the mean over its elements, in the score's own unit.

    `about` says in words what it was measured on.
    """

    score: str
    about: str
    params: tuple[Param, ...]
    tensors: dict[str, float]
    parts: dict[Part, float]

    def share(self, paths: Sequence[str]) -> float:
        """The share of these tensors in the sum over all elements of the model, in [0, 1]."""
        sums = {param.path: self.tensors[param.path] * param.numel for param in self.params}
        return sum(sums[path] for path in paths) / (sum(sums.values()) or 1.0)


def weigh(
    model: str | Path,
    score: str,
    *,
    data: str | None = None,
    base: str | Path | None = None,
    select: str | None = None,
    rows: int = 64,
    length: int = 128,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Weighed:
    """Measure the importance of a model's tensors (base, run's `final/`, adapter), frozen ones too.

    `data` is what the scores that read a text are measured on: at most `rows` rows of `length` tokens of anything that
    can be read, or of `self`. `base` is the model that `movement` starts from. `select` narrows what is measured.
    Raises BadInput for a score that lacks what it needs, and whatever the score raises.
    """
    knobs = scores.knobs(score)
    reads = knobs["batches"].default is knobs["batches"].empty
    if reads and data is None:
        raise BadInput(f"{score} is measured on a text: say which with --data (`data`), a file or tiny/stories.")
    if "start" in knobs and base is None:
        raise BadInput(f"{score} is measured from where the model began: give that with --base (`base`).")
    held, about, more = load_adapted(model), f"{score} of {model}", dict[str, Any]()
    known = [param for param in inventory(held.model) if param.dtype.is_floating_point]
    params = matched(parse(select), known) if select is not None else known
    if reads and data is not None:
        more["batches"] = batches = _batches(held, data, rows, length, seed)
        about += f" on {data}, {sum(len(batch['input_ids']) for batch in batches)} rows"
    if "start" in knobs and base is not None:
        more["start"] = load_base(base).model.state_dict()
        about += f" from {base}"
    tensors = per_tensor(scores[score](held.model, paths={p.path for p in params}, progress=progress, **more))
    return Weighed(score, about, tuple(params), tensors, _parts(params, tensors))


def _batches(base: Base, data: str, rows: int, length: int, seed: int) -> list[Batch]:
    reader = Reader(base, length, seed)
    made = reader.made_up(2 * rows)["audit"] if data == SELF else reader.probe(data, read(data), data, most=rows)
    return [collate(made.rows[i : i + BATCH], base.pad_id) for i in range(0, len(made.rows), BATCH)]


def _parts(params: Sequence[Param], tensors: dict[str, float]) -> dict[Part, float]:
    """The mean over the elements of each part, components in their usual order."""
    sums, counts = defaultdict[Part, float](float), Counter[Part]()
    several = len({param.stack for param in params if param.stack}) > 1
    for param in sorted(params, key=lambda p: (COMPONENTS.index(p.component), p.stack or "")):
        part = (_component(param, several), param.layer)
        sums[part] += tensors[param.path] * param.numel
        counts[part] += param.numel
    return {part: total / max(1, counts[part]) for part, total in sums.items()}


def _component(param: Param, several: bool) -> str:
    """All components of a tensor in words; which stack it is in as well, where there are several."""
    words = " and ".join(c for c in COMPONENTS if c in param.components)
    return f"{param.stack} {words}" if several and param.stack else words


def render_weighed(weighed: Weighed) -> Group:
    """The importance of each part, block by block, and the tensors of each level, as tables for the terminal."""
    return Group(_by_part(weighed), _by_level(weighed))


def figures(values: Iterable[float]) -> Callable[[float], str]:
    """How to write the figures of a table: two significant digits of the smallest, plainly where few decimals do.

    >>> figures([0.0, 0.112, 10.3])(0.112), figures([3e-9, 0.5])(0.5)
    ('0.11', '5.0e-01')
    """
    sizes = [abs(value) for value in values if value] or [1.0]
    if not (min(sizes) >= 1e-3 and max(sizes) < 1e4):
        return "{:.1e}".format
    decimals = max(0, 1 - math.floor(math.log10(min(sizes))))
    return f"{{:,.{decimals}f}}".format


def _by_part(weighed: Weighed) -> Table:
    columns = list(dict.fromkeys(component for component, _ in weighed.parts))
    blocks = sorted({block for _, block in weighed.parts if block is not None})
    level, figure = levels({f"{c} {b}": v for (c, b), v in weighed.parts.items()}), figures(weighed.parts.values())
    table = Table("block", title=f"{weighed.about}: mean over elements", title_justify="left")
    legend = "  ".join(f"{mark} {name}" for name, mark in MARKS.items())
    table.caption = Words(f"{legend}\n(levels of parts among parts)", justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    for block in [*blocks, None]:
        cells = [
            f"{MARKS[level[f'{c} {block}']]} {figure(weighed.parts[c, block])}" if (c, block) in weighed.parts else ""
            for c in columns
        ]
        if any(cells):
            table.add_row("outside the blocks" if block is None else str(block), *cells)
    return table


def _by_level(weighed: Weighed) -> Table:
    level, numel = levels(weighed.tensors), {param.path: param.numel for param in weighed.params}
    figure = figures(weighed.tensors.values())
    table = Table("level", title=f"{len(weighed.tensors)} tensors by level", title_justify="left")
    for heading in ("tensors", "parameters", "share", "from", "to"):
        table.add_column(heading, justify="right")
    lowest, highest = (choose(weighed.tensors, key=weighed.tensors.__getitem__) for choose in (min, max))
    share = "share: what the tensors of a level make up of the importance of all elements together"
    table.caption = Words(f"highest: {highest}\nlowest: {lowest}\n{share}", justify="left")
    for name in Level:
        paths = [path for path, found in level.items() if found is name]
        if paths:
            values, count = [weighed.tensors[path] for path in paths], sum(numel[path] for path in paths)
            ends = [figure(end) for end in (min(values), max(values))]
            table.add_row(f"{MARKS[name]} {name}", str(len(paths)), f"{count:,}", f"{weighed.share(paths):.1%}", *ends)
    return table
