"""A catalogue read from a folder in the layout of the original: items, index, splits; faults come with their lines."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from holdfast._errors import BadInput, UnknownName
from holdfast.data.files import opened
from holdfast.items import interactions
from holdfast.items.catalogue import SPLITS, TOKEN, Catalogue, Fault, Item, ill_formed, one_line
from holdfast.items.finding import find
from holdfast.items.literals import read_texts

logger = logging.getLogger(__name__)

Tokens = dict[str, tuple[str, ...]]


def load(folder: str | Path, dataset: str | None = None, *, on_bad: Literal["error", "report"] = "error") -> Catalogue:
    """The catalogue in a folder (`finding.find` says how files are found); `dataset` is needed only among several.

    Titles come from `.item.json`, without one from the info file; semantic-ID tokens from `.index.json`, without one
    from the info file, without either there are none. The index wins over the semantic IDs that csv and info file
    repeat, `.item.json` over their titles: contradictions are kept as `notes` and logged, for IDs may have been built
    anew since. What cannot be used at all (an item without title, a row with an unknown item, a cell that is no list)
    raises BadInput naming the first few and their number; with `on_bad="report"` it is left out and kept as `faults`.

    Raises BadInput for files that are missing, empty, damaged or not UTF-8, UnknownName for an unknown dataset.
    """
    if on_bad not in ("error", "report"):
        raise UnknownName("way to meet bad rows called", on_bad, ("error", "report"))
    found = find(folder, dataset)
    catalogue = _items(found.dataset, found.files, str(folder))
    faults, notes, splits = list(catalogue.faults), list(catalogue.notes), {}
    for split in SPLITS:
        if split in found.files:
            rows = interactions.read(found.files[split], catalogue)
            splits[split] = tuple(rows.kept)
            faults += rows.faults
            notes += rows.notes
    _meet(faults, notes, found.dataset, on_bad)
    return Catalogue(found.dataset, catalogue.items, catalogue.tokens, splits, str(folder), tuple(faults), tuple(notes))


def _items(dataset: str, files: Mapping[str, Path], source: str) -> Catalogue:
    """Items and tokens alone, with what was wrong with them."""
    if "item" not in files and "info" not in files:
        raise BadInput(f"{source} has neither {dataset}.item.json nor an info file, so no item has a title.")
    faults: list[Fault] = []
    informed, tokens = _info(files["info"], faults) if "info" in files else ({}, {})
    items = _titled(files["item"], faults) if "item" in files else informed
    if not items:
        raise BadInput(f"No item of {dataset} in {source} can be used: {faults[0] if faults else 'the file is empty.'}")
    notes = [*_apart(files["info"], "title", _titles(informed), _titles(items))] if informed else []
    if "index" in files:
        indexed = _index(files["index"], dataset, items, faults)
        notes += _apart(files["info"], "semantic ID", _joined(tokens), _joined(indexed)) if tokens else []
        tokens = indexed
    return Catalogue(dataset, items, tokens, {}, source, tuple(faults), tuple(notes))


def _titled(path: Path, faults: list[Fault]) -> dict[str, Item]:
    """The items of an .item.json."""
    fields, text = _object(path)
    items = {}
    for key, given in fields.items():
        try:
            items[key] = _item(key, given)
        except ValueError as error:
            faults.append(Fault(str(path), _line(text, key), str(error)))
    return items


def _item(key: str, given: object) -> Item:
    if not isinstance(given, dict):
        raise ValueError(f"item {key!r} is a {type(given).__name__}, not an object with a title")
    title = given.get("title")
    if not isinstance(title, str) or not title.strip():
        raise ValueError(f"item {key!r} has no title")
    brand = given.get("brand") or ""
    categories = given.get("categories")
    if isinstance(categories, str) and not categories.lstrip().startswith("["):
        categories = [part for part in map(str.strip, categories.split(",")) if part]
    return Item(key, title, read_texts(given.get("description")), str(brand), read_texts(categories))


def _index(path: Path, dataset: str, items: Mapping[str, Item], faults: list[Fault]) -> Tokens:
    """The tokens of an .index.json: {item: tokens}, or that under the name of the dataset."""
    fields, text = _object(path)
    if fields and all(isinstance(value, dict) for value in fields.values()):
        if dataset not in fields:
            raise UnknownName(f"dataset in {path} called", dataset, fields)
        fields = fields[dataset]
    for key in [key for key in fields if key not in items]:
        faults.append(Fault(str(path), _line(text, key), f"no item {key!r} has a title"))
    tokens: Tokens = {}
    for key in items:
        if key not in fields:
            faults.append(Fault(str(path), 1, f"item {key!r} has no semantic ID in it"))
        elif why := ill_formed(fields[key]):
            faults.append(Fault(str(path), _line(text, key), f"the semantic ID of item {key!r} cannot be used: {why}"))
        else:
            tokens[key] = tuple(fields[key])
    if not tokens:
        raise BadInput(f"{path} has a semantic ID for none of the {len(items)} items. Is it of another dataset?")
    return tokens


def _info(path: Path, faults: list[Fault]) -> tuple[dict[str, Item], Tokens]:
    """Titles and tokens of an info file: semantic ID, title, item id, with tabs between."""
    items: dict[str, Item] = {}
    tokens: Tokens = {}
    with opened(path) as handle:
        for line, text in enumerate(handle, start=1):
            cells = text.rstrip("\n").split("\t")
            if why := _uninformed(cells, items):
                faults.append(Fault(str(path), line, why))
            else:
                items[cells[2]] = Item(cells[2], cells[1])
                tokens[cells[2]] = tuple(TOKEN.findall(cells[0]))
    if not items and not faults:
        raise BadInput(f"{path} is empty. Leave the file out, or write it again.")
    return items, tokens


def _uninformed(cells: list[str], items: Mapping[str, Item]) -> str:
    """What is wrong with a line of an info file; empty where nothing is."""
    if len(cells) != 3:
        return f"it has {len(cells)} cells, not semantic ID, title and item id with tabs between"
    if not cells[1].strip() or cells[2] in items:
        return f"item {cells[2]!r} " + ("stands there twice" if cells[2] in items else "has no title")
    if not cells[0] or TOKEN.sub("", cells[0]):
        return f"{cells[0][:40]!r} is no semantic ID like <a_1><b_2><c_3>"
    return ""


def _apart(path: Path, what: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[Fault]:
    """Where an info file, which has an item in each line, says something else than the catalogue."""
    return [
        Fault(
            str(path), line, f"the {what} of item {item!r} is {text[:60]!r} here, {ours.get(item, '')[:60]!r} elsewhere"
        )
        for line, (item, text) in enumerate(theirs.items(), start=1)
        if text != ours.get(item)
    ]


def _titles(items: Mapping[str, Item]) -> dict[str, str]:
    return {key: one_line(item.title) for key, item in items.items()}


def _joined(tokens: Tokens) -> dict[str, str]:
    return {key: "".join(parts) for key, parts in tokens.items()}


def _object(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a JSON file, and its text."""
    with opened(path) as handle:
        text = handle.read()
    if not text.strip():
        raise BadInput(f"{path} is empty. Leave the file out, or write it again.")
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path}, line {error.lineno}: this is not JSON ({error.msg} at column {error.colno})."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds a {type(value).__name__}, not an object from item ids to what is said of them.")
    return value, text


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _line(text: str, key: str) -> int:
    """The line in which an object's key stands; 1 where it is spelt with escapes."""
    at = re.search(rf"{re.escape(json.dumps(key, ensure_ascii=False))}\s*:", text)
    return text.count("\n", 0, at.start()) + 1 if at else 1


def _meet(faults: list[Fault], notes: list[Fault], dataset: str, on_bad: str) -> None:
    """Raise for faults or log them, and log notes: the first few and their number."""
    if faults and on_bad == "error":
        raise BadInput(
            f"{_few(faults)} Mend the files, or read them with on_bad='report', which leaves out what cannot be used."
        )
    if faults:
        logger.warning("Left out of %s: %s", dataset, _few(faults))
    if notes:
        logger.warning("The catalogue of %s goes before what its files repeat otherwise: %s", dataset, _few(notes))


def _few(faults: list[Fault], count: int = 3) -> str:
    first = "; ".join(map(str, faults[:count]))
    return f"{first}." if len(faults) <= count else f"{first}; and {len(faults) - count} more ({len(faults)} in all)."
