"""A report as Markdown: the same sections, without pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

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


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The whole text."""
    parts = [f"# {escape(title)}"]
    for section in sections:
        told = list(filter(None, map(marked_up, section.blocks)))
        parts += [f"## {escape(section.title)}"] * bool(section.title and told) + told
    return "\n\n".join(parts) + "\n"


def escape(value: object) -> str:
    """Text of any origin on one line, none of it markup."""
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", " ".join(str(value).split()))


def marked_up(block: Block) -> str:
    """One block; pictures and their keys are left to the page."""
    match block:
        case Note(text, _):
            return escape(text)
        case Heading(text, _):
            return f"### {escape(text)}"
        case Verdicts(said):
            return "\n".join(f"- **{escape(name)}** {escape(sentence)}" for _, name, sentence in said)
        case Table():
            return _table(block)
        case Listing(entries):
            return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in entries.items())
        case Pictures() | Swatches():
            return ""
        case Answers(prompt, said):
            answers = "\n".join(f"  - **{escape(name)}**: {escape(text)}" for _, name, text in said)
            return f"- Prompt: {escape(prompt)}\n{answers}"
        case Source(text):
            return _fenced(text)
        case Links(text, to):
            return f"{escape(text)} " + ", ".join(f"[{escape(name)}](<{target}>)" for name, target in to.items())
        case Folded(summary, blocks):
            return "\n\n".join([f"**{escape(summary)}**", *filter(None, map(marked_up, blocks))])
        case Progress(said=said):
            return escape(said)
        case Bar(name, said=said):
            return f"- {escape(name)}: {escape(said)}"


def _table(table: Table) -> str:
    lines = [[escape(column) for column in table.columns], ["---"] * len(table.columns)]
    lines += [[_cell(value) for value in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Cell) -> str:
    figure = f"**{escape(value.value)}**" if value.tone else escape(value.value)
    return "<br>".join((figure, *map(escape, value.details)))


def _fenced(text: str) -> str:
    """Between fences longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text.rstrip()}\n{fence}"
