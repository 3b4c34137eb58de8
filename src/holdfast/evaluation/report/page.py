"""A report as an HTML page; everything that comes from a run is escaped here."""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import count

from holdfast.evaluation.report.content import (
    Answers,
    Bar,
    Block,
    Cell,
    Folded,
    Heading,
    Links,
    Listing,
    Note,
    Pictures,
    Progress,
    Section,
    Source,
    Swatches,
    Table,
    Verdicts,
)
from holdfast.evaluation.report.drawing import COLOURS, DASHES, inline, style


def escape(value: object) -> str:
    """Text of any origin, safe in an element and in an attribute."""
    return html.escape(str(value))


def page(title: str, sections: Sequence[Section], scripts: Sequence[str] = ("report.js",), head: str = "") -> str:
    """A whole page with its style sheet and scripts inside; its policy lets it load nothing and run nothing else."""
    sheet, script = _file("report.css"), "".join(map(_file, scripts))
    heads = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(scripts)}">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n{head}<style>\n{sheet}</style>"
    )
    with style():
        ids = count()
        parts = [_section(section, ids) for section in sections if section.blocks]
    body = f"<main>\n<h1>{escape(title)}</h1>\n" + "\n".join(parts) + f"\n</main>\n<script>{script}</script>"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{heads}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def policy(scripts: Sequence[str]) -> str:
    """What a page of ours may do, as a Content-Security-Policy: run these scripts of ours."""
    digest = base64.b64encode(hashlib.sha256("".join(map(_file, scripts)).encode()).digest()).decode()
    asks = "'self'" if "watch.js" in scripts else "'none'"
    loads = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src {asks}"
    return f"{loads}; script-src 'sha256-{digest}'"


def _file(name: str) -> str:
    return resources.files("holdfast.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _section(section: Section, ids: Iterator[int]) -> str:
    title = f"<h2>{escape(section.title)}</h2>\n" if section.title else ""
    return f"<section>\n{title}" + "\n".join(markup(block, ids) for block in section.blocks) + "\n</section>"


def markup(block: Block, ids: Iterator[int]) -> str:
    """One block; `ids` number the pictures of a page, within `drawing.style`."""
    match block:
        case Note(text, quiet):
            return f'<p class="quiet">{escape(text)}</p>' if quiet else f"<p>{escape(text)}</p>"
        case Heading(text, place):
            return f"<h3>{escape(text)}</h3>" if place is None else f'<h3 class="own" {_own(place)}>{escape(text)}</h3>'
        case Verdicts(said):
            return f'<ul class="verdicts">{"".join(_verdict(*entry) for entry in said)}</ul>'
        case Table():
            return _table(block)
        case Listing(entries):
            return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in entries.items())}</dl>"
        case Pictures():
            return _pictures(block, ids)
        case Swatches(shown):
            return f'<ul class="key">{"".join(_swatch(*entry) for entry in shown)}</ul>'
        case Answers(prompt, said):
            return _answers(prompt, said)
        case Source(text):
            return f'<pre tabindex="0">{escape(text)}</pre>'
        case Links(text, to):
            links = ", ".join(f'<a href="{escape(target)}">{escape(name)}</a>' for name, target in to.items())
            return f'<p class="quiet">{escape(text)} {links}</p>'
        case Folded(summary, blocks):
            inner = "\n".join(markup(inner, ids) for inner in blocks)
            return f"<details><summary>{escape(summary)}</summary>\n{inner}\n</details>"
        case Bar():
            return _bar(block)
        case Progress(value, of, said):
            share = f' value="{value:g}" max="{of:g}"' if of > 0 else ""
            return f'<div class="gauge"><progress{share}></progress><span>{escape(said)}</span></div>'


def _own(place: int) -> str:
    """The attribute that gives an element the colour of the run at this place."""
    return f'style="--run: var(--run-{place % len(COLOURS)})"'


def _verdict(place: int, name: str, sentence: str) -> str:
    return f'<li {_own(place)}><span class="run">{escape(name)}</span> {escape(sentence)}</li>'


def _table(table: Table) -> str:
    """A table that scrolls inside its own box; a tall one scrolls downwards, too."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = "\n".join(f"<tr>{''.join(_row(row, table.named))}</tr>" for row in table.rows)
    box = '<div class="box tall" tabindex="0">' if table.tall else '<div class="box" tabindex="0">'
    return f"{box}<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"


def _row(row: Sequence[Cell], named: bool) -> Iterator[str]:
    for i, value in enumerate(row):
        yield _row_name(value) if named and i == 0 else cell(value)


def _row_name(value: Cell) -> str:
    return f'<th scope="row">{escape(value.value)}{_fine_print(value)}</th>'


def cell(value: Cell) -> str:
    """A cell of a table: the figure, finer print below it, coloured where it is a verdict, shaded in a heat map."""
    figure = f'<b class="{escape(value.tone)}">{escape(value.value)}</b>' if value.tone else escape(value.value)
    kind = {"figure": ' class="figure"', "words": "", "wide": ' class="wide"'}[value.kind]
    known = value.exact is not None and not math.isnan(value.exact)
    exact = f' data-value="{repr(value.exact).replace("inf", "Infinity")}"' if known else ""
    shade = "" if value.depth is None else f' style="--depth: {100 * value.depth:.0f}%"'
    return f"<td{kind}{exact}{shade}>{figure}{_fine_print(value)}</td>"


def _fine_print(value: Cell) -> str:
    return "".join(f"<small>{escape(detail)}</small>" for detail in value.details)


def _pictures(block: Pictures, ids: Iterator[int]) -> str:
    drawn = [(picture, inline(picture.figure, f"p{next(ids)}", picture.title)) for picture in block.draw()]
    if not drawn:
        return ""
    key = _key(block.key) if block.key else ""
    if block.caption:
        sizes = "".join(f'<div class="{picture.size}">{svg}</div>' if picture.size else svg for picture, svg in drawn)
        return f"{key}<figure><figcaption>{escape(block.caption)}</figcaption>{sizes}</figure>"
    figures = (f"<figure><figcaption>{escape(p.title)}</figcaption>{svg}</figure>" for p, svg in drawn)
    return f'{key}<div class="grid">\n' + "\n".join(figures) + "\n</div>"


def _key(names: Sequence[str]) -> str:
    """Which line is which run's."""
    return f'<ul class="key">{"".join(f"<li>{_line(i)}{escape(name)}</li>" for i, name in enumerate(names))}</ul>'


def _line(place: int) -> str:
    dashes = DASHES[place % len(DASHES)]
    pattern = "" if isinstance(dashes, str) else f' stroke-dasharray="{" ".join(f"{2 * d:g}" for d in dashes[1])}"'
    line = f'<line x1="0" y1="6" x2="36" y2="6" stroke="var(--run)" stroke-width="2.4"{pattern}/>'
    return f'<svg viewBox="0 0 36 12" aria-hidden="true" {_own(place)}>{line}</svg>'


def _swatch(depth: float, said: str) -> str:
    return f'<li><span class="swatch" style="--depth: {100 * depth:.0f}%"></span>{escape(said)}</li>'


def _answers(prompt: str, said: Sequence[tuple[int | None, str, str]]) -> str:
    """What was answered to one prompt, side by side."""
    shown = "".join(
        f'<div class="answer" {"" if place is None else _own(place)}><span class="run">{escape(name)}</span>'
        f"<p>{escape(text)}</p></div>"
        for place, name, text in said
    )
    asked = f'<p class="prompt"><span class="quiet">Prompt</span> {escape(prompt)}</p>'
    return f'<div class="sample">{asked}<div class="answers">{shown}</div></div>'


def _bar(bar: Bar) -> str:
    """A bar from 0 to its figure, with its interval as a line."""
    value, low, high, limit = (100 * bar.at(v) for v in (bar.value, bar.low, bar.high, bar.limit))
    tone = "over" if bar.over else "inside"
    drawn = (
        f'<svg class="bar {tone}" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="of" width="100" height="8"/><rect class="value" width="{value:.2f}" height="8"/>'
        f'<line x1="{low:.2f}" x2="{high:.2f}" y1="4" y2="4"/>'
        f'<line class="limit" x1="{limit:.2f}" x2="{limit:.2f}" y1="0" y2="8"/></svg>'
    )
    return f'<div class="gauge"><span class="run">{escape(bar.name)}</span>{drawn}<span>{escape(bar.said)}</span></div>'
