"""A catalogue written in the layout of the original, each file whole or not at all, so that it reads back the same."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from holdfast._errors import BadInput, UnknownName
from holdfast.checkpoint import file_kept_whole
from holdfast.items.catalogue import Catalogue, Interaction, Item
from holdfast.items.interactions import COLUMNS, INTER, NEEDED, PREFERENCE
from holdfast.items.literals import literal, read_texts

BREAKS = re.compile(r"[\t\r\n]")


def write(catalogue: Catalogue, folder: str | Path, *, rows: Literal["csv", "inter"] = "csv") -> list[Path]:
    """Write a catalogue so that `reading.load` gives it back; returns the files.

    `index/NAME.item.json`, with semantic IDs `index/NAME.index.json` and `info/NAME.txt`, and of each split
    `train/NAME.csv` or, as .inter, `NAME.train.inter`. Raises BadInput, before anything is written, for a name that
    is no file name and for what a format cannot hold (`.inter`: ids with blanks, preferences).
    """
    folder, name = Path(folder), catalogue.name
    if not name or Path(name).name != name or name.startswith("."):
        raise BadInput(f"{name!r} cannot be the name of files. Give the catalogue a plain name.")
    if rows not in ("csv", "inter"):
        raise UnknownName("format of interactions called", rows, ("csv", "inter"))
    _unbroken(catalogue.items, blanks=True)
    contents = {f"index/{name}.item.json": items_text(catalogue)}
    if catalogue.tokens:
        contents |= {f"index/{name}.index.json": index_text(catalogue), f"info/{name}.txt": info_text(catalogue)}
    for split, chosen in catalogue.splits.items():
        inter = rows == "inter"
        file = f"{name}.{split}.inter" if inter else f"{split}/{name}.csv"
        contents[file] = inter_text(chosen) if inter else csv_text(catalogue, chosen)
    encoded = {folder / file: _encoded(file, text) for file, text in contents.items()}
    for path, content in encoded.items():
        with file_kept_whole(path) as half:
            half.write_bytes(content)
    return list(encoded)


def items_text(catalogue: Catalogue) -> str:
    """The .item.json: descriptions as strings of lists, as the original has them."""
    return json.dumps({key: _fields(item) for key, item in catalogue.items.items()}, indent=2)


def index_text(catalogue: Catalogue) -> str:
    """The .index.json: item id to tokens."""
    return json.dumps({item: list(tokens) for item, tokens in catalogue.tokens.items()})


def info_text(catalogue: Catalogue) -> str:
    """The info file: semantic ID, title on one line, item id."""
    titles = {key: _unended(item.title) for key, item in catalogue.items.items()}
    return "".join(f"{catalogue.sid(item)}\t{titles[item]}\t{item}\n" for item in catalogue.tokens)


def csv_text(catalogue: Catalogue, rows: Sequence[Interaction]) -> str:
    """A split as csv, lists as Python literals; semantic IDs and preferences where there are some."""
    _unbroken({row.user for row in rows}, blanks=True)
    columns = [name for name in COLUMNS if catalogue.tokens or not name.endswith("_sid")]
    columns += [PREFERENCE] if any(row.preference for row in rows) else []
    out = io.StringIO()
    table = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    table.writerows(_cells(catalogue, row) for row in rows)
    return out.getvalue()


def inter_text(rows: Sequence[Interaction]) -> str:
    """A split as .inter; raises BadInput for ids with blanks and for preferences, which it has no room for."""
    if any(row.preference for row in rows):
        raise BadInput("A .inter file has no room for preferences. Write the interactions as csv.")
    _unbroken({row.user for row in rows} | {item for row in rows for item in (*row.history, row.target)}, blanks=False)
    lines = ("\t".join((row.user, " ".join(row.history), row.target)) for row in rows)
    return "\n".join(["\t".join(INTER), *lines, ""])


def _fields(item: Item) -> dict[str, str]:
    return {
        "title": item.title,
        "description": _texts(item.description),
        "brand": item.brand,
        "categories": _texts(item.categories),
    }


def _texts(texts: Sequence[str]) -> str:
    """A list as a string; what was the string of a list without its end stays one."""
    if len(texts) == 1 and texts[0].startswith("[") and read_texts(texts[0]) == tuple(texts):
        return texts[0]
    return literal(texts) if texts else ""


def _cells(catalogue: Catalogue, row: Interaction) -> dict[str, str]:
    titles = [_unended(catalogue.items[item].title) for item in (*row.history, row.target)]
    cells = {
        "history_item_title": literal(titles[:-1]),
        "item_title": titles[-1],
        **dict(zip(NEEDED, (row.user, _ids(row.history), row.target), strict=True)),
        PREFERENCE: _unended(row.preference),
    }
    if catalogue.tokens:
        sids = [catalogue.sid(item) for item in (*row.history, row.target)]
        cells |= {"history_item_sid": literal(sids[:-1]), "item_sid": sids[-1]}
    return cells


def _ids(items: Sequence[str]) -> str:
    """Ids that are plain numbers as numbers, as the original has them; else texts."""
    plain = all(item.isascii() and item.isdigit() and len(item) <= 18 and str(int(item)) == item for item in items)
    return f"[{', '.join(items)}]" if plain else literal(items)


def _unended(text: str) -> str:
    """The text without what would end its line or cell; a carriage return alone is never quoted in a csv."""
    return BREAKS.sub(" ", text)


def _encoded(file: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"{file} cannot be written in UTF-8: {error.object[error.start]!r} is no character.") from error


def _unbroken(ids: Iterable[str], *, blanks: bool) -> None:
    """Raise BadInput for ids that would not be read back as they are."""
    for name in ids:
        if name != name.strip() or not name or BREAKS.search(name) or (name.split() != [name] and not blanks):
            raise BadInput(
                f"The id {name!r} cannot be written: blanks or line ends would not be read back as they are."
            )
