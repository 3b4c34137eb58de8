"""Parts of a text that share nothing: control, audit, replay and training never see one another's words."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from holdfast._errors import BadInput
from holdfast.data.formats import Chat, Completion, Record, Text
from holdfast.data.rows import Row

Item = TypeVar("Item", str, Record, Row)

PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
OPENING = re.compile(r"(Once upon a time|Chapter|CHAPTER|ACT |#+ )")
"""How a paragraph begins that opens a story or a chapter."""

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""A word; Chinese and Japanese characters stand for themselves."""

Window = tuple[str, ...]
Hashes = NDArray[np.uint64]
logger = logging.getLogger(__name__)


def documents(text: str, *, size: int = 1500) -> list[str]:
    """A long text in contiguous blocks of about `size` characters, several stories or scenes each.

    Plain files seldom say where a story ends. A block therefore ends, once it has `size` characters, before the next
    paragraph that opens something (`OPENING`), so that no recognised story lies in two blocks; where none comes
    within four times the size, at a blank line. Paragraphs are never cut.
    """
    blocks: list[list[str]] = [[]]
    filled = 0
    for paragraph in PARAGRAPHS.split(text.strip()):
        if filled >= 4 * size or (filled >= size and OPENING.match(paragraph)):
            blocks.append([])
            filled = 0
        blocks[-1].append(paragraph)
        filled += len(paragraph)
    return ["\n\n".join(block) for block in blocks if any(block)]


def split(
    items: Sequence[Item], shares: Mapping[str, float], seed: int = 0, *, window: int = 13
) -> dict[str, list[Item]]:
    """Whole documents (strings or records) or rows, dealt out to named parts that do not overlap.

    `shares` maps each part to its share of the volume (words, or tokens of rows); what they leave below 1 goes to
    nobody. The documents are shuffled by `seed`, and each goes to the part that still lacks most. Then, part by part
    in the order of `shares`, what an earlier part holds is taken out of the later one: of running text each paragraph
    that touches a window of `window` words (13, as in Brown et al. 2020, arXiv:2005.14165, appendix C) found there;
    of prompts, chats and rows each that is the same but for case, blanks and punctuation. Tasks are made from
    templates and rows from one model, so shared windows do not make those the same. Near-identical rows are dropped
    first (`distinct`). So a part that must stay whole is named first.

    Raises BadInput for shares that are not positive or exceed 1, and where a part would be left empty.
    """
    if not shares or min(shares.values()) <= 0 or sum(shares.values()) > 1 + 1e-9:
        raise BadInput(f"Shares are positive and sum to at most 1, not {dict(shares)}.")
    items = [items[i] for i in _unlike(items)]
    parts = _dealt(items, shares, seed)
    seen: set[Window] = set()
    for name, part in parts.items():
        parts[name] = [kept for item in part for kept in _without(item, seen, window)]
        if not parts[name]:
            raise BadInput(
                f"Of {len(items)} documents nothing is left for the part {name!r} of {', '.join(shares)}. "
                "Give more text, or fewer parts."
            )
        seen.update(mark for item in parts[name] for mark in _marks(item, window))
    return parts


def distinct(rows: Sequence[Row], *, window: int = 13, share: float = 0.5) -> list[Row]:
    """Rows without the near-identical: dropped where more than `share` of a row's windows stood in an earlier one."""
    return [rows[i] for i in fresh([row["input_ids"] for row in rows], window=window, share=share)]


def fresh(rows: Sequence[Sequence[int]], *, window: int = 13, share: float = 0.5) -> list[int]:
    """Which rows of tokens `distinct` keeps."""
    seen: set[tuple[int, ...]] = set()
    kept = []
    for i, ids in enumerate(rows):
        windows = {tuple(ids[at : at + window]) for at in range(max(len(ids) - window, 0) + 1)}
        if len(windows & seen) <= share * len(windows):
            kept.append(i)
        seen |= windows
    return kept


def apart(rows: Sequence[Row], judged: Sequence[Row], *, window: int = 20) -> list[Row]:
    """Rows that share no passage of `window` tokens with any judged one (of shorter rows: not the whole)."""
    known = {size: _passages(judged, size) for size in {min(window, len(row["input_ids"])) for row in rows}}
    kept = []
    for row in rows:
        size = min(window, len(row["input_ids"]))
        found = _hashes(row, size)
        at = np.searchsorted(known[size], found).clip(max=len(known[size]) - 1)
        if not len(known[size]) or not (known[size][at] == found).any():
            kept.append(row)
    if len(kept) < len(rows):
        logger.warning("%d of %d rows stand in a text that judges and were left out.", len(rows) - len(kept), len(rows))
    return kept


def _passages(rows: Sequence[Row], size: int) -> Hashes:
    found = [_hashes(row, size) for row in rows if len(row["input_ids"]) >= size]
    return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.uint64)


def _hashes(row: Row, size: int) -> Hashes:
    """A number for each passage of `size` tokens (polynomial, modulo 2^64)."""
    ids = np.asarray(row["input_ids"], dtype=np.uint64) + np.uint64(1)
    powers = np.cumprod(np.full(max(size, 1), 6364136223846793005, dtype=np.uint64))
    return np.asarray(sliding_window_view(ids, max(size, 1)) @ powers, dtype=np.uint64)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


def _dealt(items: Sequence[Item], shares: Mapping[str, float], seed: int) -> dict[str, list[Item]]:
    order = list(items)
    random.Random(seed).shuffle(order)
    volumes = [_volume(item) for item in order]
    whole = sum(volumes)
    lacking: dict[str | None, float] = {name: share * whole for name, share in shares.items()}
    lacking[None] = (1 - sum(shares.values())) * whole
    parts: dict[str | None, list[Item]] = {name: [] for name in lacking}
    for item, volume in zip(order, volumes, strict=True):
        name = max(lacking, key=lambda part: lacking[part])
        parts[name].append(item)
        lacking[name] -= volume
    return {name: part for name, part in parts.items() if name is not None}


def _unlike(items: Sequence[str | Record | Row]) -> list[int]:
    """Which items stay: rows that are not nearly the same as an earlier one, and all that is no row."""
    ids = [item["input_ids"] for item in items if isinstance(item, dict)]
    return fresh(ids) if len(ids) == len(items) else list(range(len(items)))


def _volume(item: str | Record | Row) -> int:
    return len(item["input_ids"]) if isinstance(item, dict) else len(words(_content(item)))


def _content(item: str | Record) -> str:
    if isinstance(item, Completion):
        return f"{item.prompt} {item.completion}"
    if isinstance(item, Chat):
        return "\n".join(str(message["content"]) for message in item.messages)
    return item.text if isinstance(item, Text) else item


def _marks(item: str | Record | Row, window: int) -> list[Window]:
    """What another part must not hold: the windows of running text, the whole of anything else and of shorter text."""
    if isinstance(item, dict):
        return [tuple(map(str, item["input_ids"]))]
    found = words(_content(item))
    return (isinstance(item, str | Text) and _windows(found, window)) or [tuple(found)]


def _windows(sequence: Sequence[str], size: int) -> list[Window]:
    return [tuple(sequence[i : i + size]) for i in range(len(sequence) - size + 1)]


def _without(item: Item, seen: set[Window], window: int) -> list[Item]:
    """The item without what was seen; nothing where nothing is left of it."""
    if not isinstance(item, str | Text) or len(words(_content(item))) < window:
        return [] if any(mark in seen for mark in _marks(item, window)) else [item]
    left = _cleaned(_content(item), seen, window)
    kept: Any = Text(left) if isinstance(item, Text) else left
    return [kept] if left else []


def _cleaned(text: str, seen: set[Window], window: int) -> str:
    """The paragraphs that touch no seen window; repeated, because taking one out makes new neighbours."""
    paragraphs = PARAGRAPHS.split(text)
    while True:
        owners = [i for i, paragraph in enumerate(paragraphs) for _ in words(paragraph)]
        found = _windows(words("\n\n".join(paragraphs)), window)
        touched = {i for at, mark in enumerate(found) if mark in seen for i in owners[at : at + window]}
        if not touched:
            return "\n\n".join(paragraphs)
        paragraphs = [paragraph for i, paragraph in enumerate(paragraphs) if i not in touched]
