"""The index of semantic IDs in a file: which tokens name each item."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput, UnknownName

Index = dict[str, tuple[str, ...]]

FORM = 'one looks like {"0": ["<a_236>", "<b_231>", "<c_226>"], …}.'


def read_index(file: str | Path, dataset: str | None = None) -> Index:
    """item -> its tokens, in the order of the file: `{"0": ["<a_236>", "<b_231>", "<c_226>"], …}`.

    A file of several data sets, `{dataset: {item: tokens}}`, needs the name of one. Raises BadInput for a file that is
    missing, empty or no such mapping, UnknownName for a data set that is not among its keys.
    """
    path = Path(file).expanduser()
    value = _parsed(path)
    if value and all(isinstance(inner, dict) for inner in value.values()):
        if dataset is None and len(value) == 1:
            dataset = next(iter(value))
        if dataset not in value:
            raise UnknownName(f"data set in {path} called", str(dataset), value)
        value = value[dataset]
    if not value:
        raise BadInput(f"{path} is no index of IDs: it names no item; {FORM}")
    return {item: _tokens(path, item, tokens) for item, tokens in value.items()}


def _parsed(path: Path) -> dict[str, Any]:
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.index.json*")) if path.parent.is_dir() else []
        hint = f"In {path.parent} there are: {', '.join(there)}." if there else f"{path.parent} holds no *.index.json."
        raise BadInput(f"There is no index {path}. {hint} Check the folder and the name of the data set.")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            value = json.load(stream, object_pairs_hook=_once)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read as an index: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} is no index of IDs but a {type(value).__name__}; {FORM}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it names {key!r} twice, and every item has one ID.")
        found[key] = value
    return found


def _tokens(path: Path, item: str, tokens: Any) -> tuple[str, ...]:
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) and t.strip() for t in tokens):
        raise BadInput(f"{path} is no index of IDs: item {item!r} has {repr(tokens)[:80]}; {FORM}")
    return tuple(tokens)
