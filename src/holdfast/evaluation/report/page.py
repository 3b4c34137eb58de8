"""Pieces of an HTML page; everything that comes from a run is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from holdfast.evaluation.report.drawing import COLOURS, DASHES
from holdfast.evaluation.report.headline import Cell
from holdfast.evaluation.report.records import RunRecord


def escape(value: object) -> str:
    """Text of any origin, safe in an element and in an attribute."""
    return html.escape(str(value))


def page(title: str, sections: Sequence[str]) -> str:
    """A whole page with its style sheet inside; it loads nothing."""
    sheet = resources.files("holdfast.evaluation.report").joinpath("report.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n<style>\n{sheet}</style>'
    )
    body = f"<main>\n<h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</main>"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def section(name: str, *parts: str) -> str:
    """A part of the page under its heading."""
    return f"<section>\n<h2>{escape(name)}</h2>\n" + "\n".join(parts) + "\n</section>"


def note(sentence: str) -> str:
    """A sentence in smaller print."""
    return f'<p class="quiet">{escape(sentence)}</p>'


def absent(runs: Sequence[RunRecord], file: str) -> list[str]:
    """One sentence for each run that has nothing to say here, because it lacks this file."""
    return [note(f"{run.name}: {run.missing[file]}") for run in runs if file in run.missing]


def own(place: int) -> str:
    """The attribute that gives an element the colour of the run at this place."""
    return f'style="--run: var(--run-{place % len(COLOURS)})"'


def run_name(place: int, name: str) -> str:
    """A heading with a run's name, in its colour."""
    return f'<h3 class="own" {own(place)}>{escape(name)}</h3>'


def cell(value: Cell) -> str:
    """A cell of a table: the figure, finer print below it, coloured where it is a verdict."""
    figure = f'<b class="{value.tone}">{escape(value.value)}</b>' if value.tone else escape(value.value)
    return f'<td class="figure">{figure}{"".join(f"<small>{escape(d)}</small>" for d in value.details)}</td>'


def words(value: object, *, wide: bool = False) -> str:
    """A cell of a table that holds text; `wide` keeps it from being squeezed on a narrow screen."""
    opening = '<td class="wide">' if wide else "<td>"
    return f"{opening}{escape(value)}</td>"


def row_name(value: object, detail: str = "") -> str:
    """The cell that names a row, with finer print below it."""
    return f'<th scope="row">{escape(value)}{f"<small>{escape(detail)}</small>" if detail else ""}</th>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, tall: bool = False) -> str:
    """A table of ready cells that scrolls inside its own box; a tall one scrolls downwards, too."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    box = '<div class="box tall" tabindex="0">' if tall else '<div class="box" tabindex="0">'
    return f"{box}<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"


def listing(entries: Mapping[str, object]) -> str:
    """Names and what they stand for."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(said)}</dd>' for name, said in entries.items())}</dl>"


def key(names: Sequence[str]) -> str:
    """Which line is which run's."""
    return f'<ul class="key">{"".join(f"<li>{_line(i)}{escape(name)}</li>" for i, name in enumerate(names))}</ul>'


def _line(place: int) -> str:
    dashes = DASHES[place % len(DASHES)]
    pattern = "" if isinstance(dashes, str) else f' stroke-dasharray="{" ".join(f"{2 * d:g}" for d in dashes[1])}"'
    line = f'<line x1="0" y1="6" x2="36" y2="6" stroke="var(--run)" stroke-width="2.4"{pattern}/>'
    return f'<svg viewBox="0 0 36 12" aria-hidden="true" {own(place)}>{line}</svg>'


def figure(caption: str, *drawings: str, kind: str = "") -> str:
    """Drawings under one caption."""
    opening = f'<figure class="{kind}">' if kind else "<figure>"
    return f"{opening}<figcaption>{escape(caption)}</figcaption>{''.join(drawings)}</figure>"


def grid(figures: Iterable[str]) -> str:
    """Figures side by side, as many as there is room for."""
    return '<div class="grid">\n' + "\n".join(figures) + "\n</div>"
