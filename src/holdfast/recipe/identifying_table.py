"""Semantic IDs and catalogues as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text as Words

from holdfast.evaluation.report.headline import NOTHING
from holdfast.items.catalogue import SPLITS, Catalogue, popularity
from holdfast.recipe.identifying import Identified, measured

EXAMPLES, FAULTS = 3, 5


def render_ids(found: Identified) -> Group:
    """Codes by level and how evenly they are used; below it collisions, neighbours, lengths and examples."""
    report = measured(found)
    table = Table("level", box=SIMPLE_HEAD)
    for column in ("codes", "in use", "perplexity", "items of a code", "error left"):
        table.add_column(column, justify="right")
    for number, level in enumerate(report["levels"], start=1):
        codes = NOTHING if level["codes"] is None else f"{level['codes']:,}"
        error = NOTHING if level["error"] is None else f"{level['error']:.3f}"
        span = f"{level['smallest']:,} to {level['largest']:,}"
        table.add_row(f"{number}", codes, f"{level['used']:,}", f"{level['perplexity']:,.1f}", span, error)
    return Group(table, Words("\n".join(_below(found, report)) + "\n"))


def render_catalogue(catalogue: Catalogue) -> Group:
    """Splits: rows, users, items, histories, and targets that training never saw; below it what cannot be used."""
    table = Table("split", box=SIMPLE_HEAD)
    for column in ("rows", "users", "targets", "history", "cold targets"):
        table.add_column(column, justify="right")
    known = popularity(catalogue.splits.get("train", ()))
    for split in (name for name in SPLITS if name in catalogue.splits):
        rows = catalogue.splits[split]
        lengths = sorted(len(row.history) for row in rows) or [0]
        cold = sum(not known[row.target] for row in rows)
        table.add_row(
            split,
            f"{len(rows):,}",
            f"{len({row.user for row in rows}):,}",
            f"{len({row.target for row in rows}):,}",
            f"{lengths[len(lengths) // 2]} ({lengths[0]} to {lengths[-1]})",
            NOTHING if split == "train" else f"{cold:,} ({100 * cold / max(1, len(rows)):.1f} %)",
        )
    return Group(table, Words("\n".join(_about(catalogue)) + "\n"))


def _about(catalogue: Catalogue) -> list[str]:
    titles = len(catalogue.by_title)
    told = [
        f"{catalogue.name}: {len(catalogue.items):,} items, {len(catalogue.items) - titles:,} titles again; "
        f"{len(catalogue.tokens):,} items have a semantic ID",
        f"{len(catalogue.faults):,} rows cannot be used, {len(catalogue.notes):,} contradict the index or the titles",
    ]
    return told + [f"  {fault}" for fault in catalogue.faults[:FAULTS]]


def _below(found: Identified, report: Mapping[str, Any]) -> list[str]:
    tokens = _tokens(found)
    lengths = sorted(Counter(map(len, tokens.values())).items())
    shown = ", ".join(f"{count:,} of {length} tokens" for length, count in lengths)
    lines = [
        f"{report['items']:,} items, {len(set(map(tuple, tokens.values()))):,} IDs: {shown}",
        _shared(report["after"], report["before"]),
    ]
    for near in report["neighbourhoods"]:
        first = "first code" if near["depth"] == 1 else f"first {near['depth']} codes"
        lines.append(
            f"nearest neighbours have the {first} in common in {100 * near['share']:.1f} % of cases, "
            f"{100 * near['by_chance']:.2f} % by chance"
        )
    return lines + list(_examples(found)) + list(found.notes)


def _shared(after: Mapping[str, int], before: Mapping[str, int] | None) -> str:
    now = f"{after['items']:,} items share {after['groups']:,} IDs" if after["items"] else "no two items share an ID"
    largest = f", up to {after['largest']} one ID" if after["items"] else ""
    return now + largest + ("" if before is None else f"; {before['items']:,} did before that was resolved")


def _tokens(found: Identified) -> Mapping[str, Sequence[str]]:
    """The tokens themselves; a catalogue's may be of any form."""
    if found.catalogue is not None and found.catalogue.tokens:
        return found.catalogue.tokens
    return found.ids.tokens


def _examples(found: Identified) -> list[str]:
    tokens = _tokens(found)
    titles = {item: found.catalogue.title(item) for item in list(tokens)[:EXAMPLES]} if found.catalogue else {}
    return [
        f"{''.join(tokens[item])}  {item}  {titles.get(item, '')[:60]}".rstrip() for item in list(tokens)[:EXAMPLES]
    ]
