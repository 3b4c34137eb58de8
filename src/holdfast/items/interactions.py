"""Rows of interactions from csv and .inter files; a row that cannot be used is told with its line, never guessed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from holdfast._errors import BadInput
from holdfast.data.files import opened
from holdfast.items.catalogue import Catalogue, Fault, Interaction, one_line
from holdfast.items.literals import LONGEST, listed

COLUMNS = ("user_id", "history_item_title", "item_title", "history_item_id", "item_id", "history_item_sid", "item_sid")
"""The columns of the original's csv; the titles and semantic IDs in them only repeat what the catalogue says."""

NEEDED = ("user_id", "history_item_id", "item_id")

INTER = ("user_id:token", "item_id_list:token_seq", "item_id:token")
"""The header of a .inter file, as RecBole's atomic files have it; only the order of its three columns counts."""

PREFERENCE = "preference"
"""A further column: what the user wants, in words."""

TABS: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}

_BLANK_SEPARATED = "item_id_list"

Cells = Mapping[str, str]


class Rows(NamedTuple):
    """What a file holds: the rows, those left out with the reason, and those kept that contradict the catalogue."""

    kept: list[Interaction]
    faults: list[Fault]
    notes: list[Fault]


def read(path: Path, catalogue: Catalogue) -> Rows:
    """The rows of a csv or .inter file about items of `catalogue`; raises BadInput where no row can be read at all.

    A row is left out that has too many or too few cells, a cell that is no list (`literals.listed`), no user, an empty
    history, or an item without a title or, where there are semantic IDs, without one. It is kept, and noted, where its
    own titles or semantic IDs are not those of the catalogue, for IDs may have been built anew since.
    """
    rows = Rows([], [], [])
    with _long_cells():
        for line, cells in _lines(path):
            try:
                row = _interaction(_sound(cells), line)
                _known(row, catalogue)
                contradictions = list(_contradictions(_sound(cells), row, catalogue))
            except ValueError as error:
                rows.faults.append(Fault(str(path), line, str(error)))
            else:
                rows.kept.append(row)
                rows.notes.extend(Fault(str(path), line, why) for why in contradictions)
    if not rows.kept and not rows.faults:
        raise BadInput(f"{path} is empty: no row follows its header. Leave the file out, or write it again.")
    return rows


@contextmanager
def _long_cells() -> Iterator[None]:
    """Cells of any length can be read meanwhile: `csv` has one limit for the whole process."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _lines(path: Path) -> Iterator[tuple[int, Cells | ValueError]]:
    """Each row with the line that it begins in: its cells by column, or why it has none."""
    inter = ".inter" in path.suffixes
    with opened(path, newline="") as handle:
        reader = csv.reader(handle, strict=True, **(TABS if inter else {}))
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise BadInput(f"The header of {path} cannot be read: {error}.") from error
        columns = _three(path, header) if inter else _columns(path, header)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, ValueError(f"{error}")
            else:
                if cells:
                    yield line, _by_column(cells, columns)


def _columns(path: Path, header: list[str]) -> list[str]:
    if not header:
        raise BadInput(f"{path} is empty. Leave the file out, or write it again.")
    if missing := [name for name in NEEDED if name not in header]:
        raise BadInput(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header)[:200]}.")
    if len(set(header)) < len(header):
        raise BadInput(f"{path} has two columns of one name: {', '.join(header)[:200]}.")
    return header


def _three(path: Path, header: list[str]) -> list[str]:
    if not header:
        raise BadInput(f"{path} is empty. Leave the file out, or write it again.")
    if len(header) != len(INTER):
        raise BadInput(f"{path} has {len(header)} columns, not user, history and target with tabs between.")
    return ["user_id", _BLANK_SEPARATED, "item_id"]


def _by_column(cells: list[str], columns: list[str]) -> Cells | ValueError:
    if len(cells) != len(columns):
        return ValueError(f"it has {len(cells)} cells, the header {len(columns)}")
    if (longest := max(map(len, cells))) > LONGEST:
        return ValueError(f"one of its cells has {longest:,} characters, more than {LONGEST:,}")
    return dict(zip(columns, cells, strict=True))


def _sound(cells: Cells | ValueError) -> Cells:
    if isinstance(cells, ValueError):
        raise cells
    return cells


def _interaction(cells: Cells, line: int) -> Interaction:
    user, target = cells["user_id"].strip(), cells["item_id"].strip()
    if not user:
        raise ValueError("it names no user")
    inter = cells.get(_BLANK_SEPARATED)
    history = _list(cells, "history_item_id") if inter is None else inter.split()
    if not history:
        raise ValueError("its history is empty, so nothing leads to the item")
    return Interaction(user, tuple(history), target, line, cells.get(PREFERENCE, "").strip())


def _list(cells: Cells, column: str) -> list[str]:
    try:
        return [str(value) for value in listed(cells[column])]
    except ValueError as error:
        raise ValueError(f"{column} cannot be read, for {error}") from error


def _known(row: Interaction, catalogue: Catalogue) -> None:
    for item in (*row.history, row.target):
        if item not in catalogue.items:
            raise ValueError(f"the catalogue has no item {item[:40]!r}")
        if catalogue.tokens and item not in catalogue.tokens:
            raise ValueError(f"the index has no semantic ID for item {item!r}")


def _contradictions(cells: Cells, row: Interaction, catalogue: Catalogue) -> Iterator[str]:
    """Where a row's own titles or semantic IDs differ from the catalogue's."""
    for what, ours in (("title", catalogue.title), ("sid", catalogue.sid)):
        before, last = f"history_item_{what}", f"item_{what}"
        if what == "sid" and not catalogue.tokens:
            continue
        told = _list(cells, before) if cells.get(before) else []
        if told and len(told) != len(row.history):
            yield f"{before} has {len(told)} entries, history_item_id {len(row.history)}"
            continue
        theirs = list(zip(row.history, told, strict=False))
        if cells.get(last):
            theirs.append((row.target, cells[last]))
        for item, text in theirs:
            if one_line(text) != ours(item):
                yield f"the {what} of item {item!r} is {text[:60]!r} here and {ours(item)[:60]!r} in the catalogue"
                break
