"""The live view in a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text

from holdfast.evaluation.report.content import Bar, Block, Cell, Listing, Note, Progress, Table, Verdicts
from holdfast.evaluation.report.headline import TONES
from holdfast.watching.view import View, view

_WIDE = 30  # characters of a bar


def watch(folder: Path, console: Console, *, every: float = 1.0, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show a run until it has ended, looking every so many seconds; outside a terminal, a line whenever it moved."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for seen in moments(folder, every, sleep):
                live.update(rendered(seen), refresh=True)
        return
    said = ""
    for seen in moments(folder, every, sleep):
        if seen.state == "ended":
            console.print(rendered(seen))
        elif seen.said != said:
            console.print(Text(seen.said), soft_wrap=True)
        said = seen.said


def moments(folder: Path, every: float, sleep: Callable[[float], None]) -> Iterator[View]:
    """A run from look to look; the last one is its end."""
    while True:
        yield (seen := view(folder))
        if seen.state == "ended":
            return
        sleep(every)


def rendered(seen: View) -> RenderableType:
    """All of a view for the terminal."""
    parts: list[RenderableType] = [Text(seen.title, style="bold")]
    for section in seen.sections:
        if section.title and section.blocks:
            parts.append(Text(f"\n{section.title}", style="bold"))
        parts += [_block(block) for block in section.blocks]
    return Group(*parts)


def _block(block: Block) -> RenderableType:
    match block:
        case Note(text, _):
            return Text(text, style="dim")
        case Verdicts(said):
            return Text("\n".join(f"{name} {sentence}" for _, name, sentence in said))
        case Progress():
            total = block.of if block.of > 0 else None
            return _beside(ProgressBar(total=total, completed=block.value, width=_WIDE), block.said)
        case Listing(entries):
            grid = RichTable.grid(padding=(0, 2))
            for name, value in entries.items():
                grid.add_row(Text(name, style="dim"), Text(str(value)))
            return grid
        case Bar():
            return _beside(_bar(block), f"{block.name}: {block.said}")
        case Table():
            return _table(block)
        case _:
            return Text("")


def _beside(left: RenderableType, said: str) -> RenderableType:
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(width=_WIDE)
    grid.add_row(left, Text(said))
    return grid


def _bar(bar: Bar) -> Text:
    """A bar from 0, the interval in shades around its end, and its limit as a line."""
    low, value, high, limit = (round(_WIDE * bar.at(v)) for v in (bar.low, bar.value, bar.high, bar.limit))
    hue = TONES["broken" if bar.over else "holds"]
    drawn = Text("█" * min(low, value) + "▓" * (value - min(low, value)) + "░" * max(0, high - value), style=hue)
    drawn.append("·" * (_WIDE - len(drawn)), style="dim")
    if math.isfinite(bar.limit):
        place = min(limit, _WIDE - 1)
        drawn = Text.assemble(drawn[:place], ("│", "bold red"), drawn[place + 1 :])
    return drawn


def _table(table: Table) -> RichTable:
    found = RichTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in table.columns:
        found.add_column(Text(column))
    for row in table.rows:
        found.add_row(*map(_cell, row))
    return found


def _cell(cell: Cell) -> Text:
    text = Text(cell.value, style=TONES.get(cell.tone or "", ""))
    for detail in cell.details:
        text.append(f" {detail}", style="dim")
    return text
