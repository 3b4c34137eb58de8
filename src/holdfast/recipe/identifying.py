"""From a folder of items to a file of semantic IDs, and what IDs and catalogues that are there look like."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast._errors import BadInput, UnknownName
from holdfast.items.building import Shared, adopt, grow, identify
from holdfast.items.catalogue import Catalogue, Item
from holdfast.items.embedding import TFIDF, embed
from holdfast.items.finding import find
from holdfast.items.identifiers import ENDED, SemanticIDs
from holdfast.items.index_files import INDEX, read_ids, write_ids
from holdfast.items.quality import quality
from holdfast.items.reading import load

FIELDS: dict[str, Callable[[Item], str]] = {
    "title": lambda item: item.title,
    "description": lambda item: " ".join(item.description),
    "brand": lambda item: item.brand,
    "categories": lambda item: " ".join(item.categories),
}
"""What of an item can be embedded."""

DEFAULT = ("title", "description")
"""What is embedded unless told, as in the original."""

FEWEST = 4
"""Items that a first code names on average, at least; below that nothing is gathered by it."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Identified:
    """IDs with their file, the catalogue where there is one, and what was done about old IDs."""

    ids: SemanticIDs
    index: Path | None
    catalogue: Catalogue | None
    notes: tuple[str, ...] = field(default=())


def build_ids(
    folder: str | Path,
    output: str | Path,
    *,
    dataset: str | None = None,
    quantiser: str = "residual",
    levels: int | None = None,
    codes: int | Sequence[int] | None = None,
    embedding: str | None = None,
    fields: Sequence[str] | None = None,
    shared: Shared = "move",
    seed: int = 0,
    old: str | Path | None = None,
    say: Say = lambda line: None,
) -> Identified:
    """Embed the items in `folder`, make IDs of that, and write them as `output`/NAME.index.json with their codebooks.

    `embedding` is `tfidf`, a model's folder, or a .npy with a row for each item in their order; `fields` are of
    `FIELDS`. `old` is an index to grow: its items keep their IDs, only new ones get some. By `tfidf` all texts are
    embedded anew, so the old codebooks become the means of their items there; by anything else the old ones stay.
    Embedding and fields of an old index are taken from it unless told.

    Rows of interactions are not needed; what is wrong in them is logged. Raises BadInput where an index is there
    already, for fields, embeddings or settings that cannot be used, and as
    `identify`, `adopt` and `grow`.
    """
    catalogue = load(folder, dataset, on_bad="report")
    target = _free(Path(folder), Path(output), catalogue)
    before = None if old is None else read_ids(old, duplicates="allow")
    known = {} if before is None else before.settings
    embedding = embedding or str(known.get("embedding", TFIDF))
    fields = tuple(fields or known.get("fields", DEFAULT))
    say(f"embedding {len(catalogue.items):,} items by {embedding}")
    vectors = embed(texts_of(catalogue, fields), embedding, seed=seed, progress=say)
    notes: tuple[str, ...] = ()
    if before is None:
        chosen = {name: value for name, value in (("levels", levels), ("codes", codes)) if value is not None}
        ids = identify(list(catalogue.items), vectors, {quantiser: chosen}, shared=shared, seed=seed, progress=say)
    else:
        ids, notes = _grown(before, catalogue, vectors, embedding, shared)
    ids = replace(ids, settings={**ids.settings, "embedding": embedding, "fields": list(fields)})
    named = catalogue.with_tokens(ids.tokens)
    if before is None and (many := _apart(ids)):
        notes = (many,)
    write_ids(ids, output, catalogue.name)
    return Identified(ids, target, named, notes)


def _apart(ids: SemanticIDs) -> str:
    """What to say where first codes gather next to no items; nothing where they do."""
    items, used = len(ids.items), len(set(ids.codes[:, 0].tolist()))
    if used * FEWEST <= items:
        return ""
    few = max(2, round(math.sqrt(items)))
    return (
        f"{used:,} first codes for {items:,} items: next to none begin alike, so little can be learnt of one item from "
        f"another. Take fewer codes, such as --codes {few}."
    )


def texts_of(catalogue: Catalogue, fields: Sequence[str]) -> list[str]:
    """What of each item is embedded, a field on a line; raises UnknownName, and BadInput for no field."""
    for name in fields:
        if name not in FIELDS:
            raise UnknownName("field of items called", name, FIELDS)
    if not fields:
        raise BadInput(f"At least one field of the items is embedded: {', '.join(FIELDS)}.")
    told = ([FIELDS[name](item) for name in fields] for item in catalogue.items.values())
    return ["\n".join(filter(None, texts)) for texts in told]


def inspected(place: str | Path, dataset: str | None = None) -> Identified:
    """The IDs in an index, or those of the catalogue in a folder; shared IDs and IDs of several lengths are taken.

    Raises BadInput where there is neither, and for what cannot be read at all; bad rows are among the catalogue's
    `faults`.
    """
    path = Path(place).expanduser()
    if not path.is_dir():
        return Identified(read_ids(path, ragged=True, duplicates="allow"), path, None)
    found = find(path, dataset)
    if not {"item", "info"} & found.files.keys():
        if "index" not in found.files:
            raise BadInput(f"{path} holds rows of {found.dataset} and neither items nor an index. Add NAME.item.json.")
        return Identified(read_ids(found.files["index"], ragged=True, duplicates="allow"), found.files["index"], None)
    catalogue = load(path, dataset, on_bad="report")
    return Identified(numbered(catalogue.tokens), found.files.get("index"), catalogue)


def numbered(tokens: Mapping[str, Sequence[str]]) -> SemanticIDs:
    """IDs of any tokens as codes: at each level its tokens are numbered in the order in which they come."""
    longest = max(map(len, tokens.values()), default=0)
    places: list[dict[str, int]] = [{} for _ in range(longest)]
    rows = [[level.setdefault(name, len(level)) for level, name in zip(places, one)] for one in tokens.values()]  # noqa: B905  IDs may be shorter
    padded = [row + [ENDED] * (longest - len(row)) for row in rows]
    return SemanticIDs(tuple(tokens), torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest))


def measured(found: Identified) -> dict[str, Any]:
    """The figures of the IDs: those that were measured when they were made, else what the codes alone say."""
    return dict(found.ids.report) or quality(found.ids).as_dict()


def _free(folder: Path, output: Path, catalogue: Catalogue) -> Path:
    """Where the index goes; raises BadInput where it would take another's place, or stand beside it."""
    target = output / f"{catalogue.name}{INDEX}"
    inside = folder.resolve() in (output.resolve(), output.resolve().parent)
    if target.exists() or (inside and catalogue.tokens):
        raise BadInput(
            f"{target if target.exists() else folder} has an index already; a model may have learnt its IDs. Choose "
            "another folder for the new one (--output); --grow keeps the IDs of an index and adds new items to them."
        )
    return target


def _grown(
    before: SemanticIDs, catalogue: Catalogue, vectors: Tensor, embedding: str, shared: Shared
) -> tuple[SemanticIDs, tuple[str, ...]]:
    """Old IDs with those of new items behind them, and what is to be said about it."""
    gone = [item for item in before.items if item not in catalogue.items]
    if gone:
        raise BadInput(
            f"{len(gone)} items of the old index are not in the catalogue any longer, {gone[0]!r} for one. Their IDs "
            "would be given away again: leave the items in."
        )
    places = {item: place for place, item in enumerate(catalogue.items)}
    old = vectors[[places[item] for item in before.items]]
    start = before
    if not before.codebooks or embedding == TFIDF:
        if before.ordinal:
            raise BadInput(
                "IDs whose last token only numbers items grow in the space that they were made in, and TF-IDF has "
                "another with each new text. Embed with a model or a .npy, or build them without --shared suffix."
            )
        start = adopt(before, old, shared=shared)
    new = [item for item in catalogue.items if item not in before.places]
    if not new:
        raise BadInput("The old index has an ID for every item of the catalogue: there is nothing to grow.")
    ids = grow(start, new, vectors[[places[item] for item in new]])
    changed = sum(ids.tokens[item] != before.tokens[item] for item in before.items)
    ordered = vectors[[places[item] for item in ids.items]]
    ids = replace(ids, report=quality(ids, ordered).as_dict())
    notes = [f"{len(new):,} new items, {len(before.items):,} as before"]
    if changed:
        notes.append(f"{changed:,} old IDs changed, for they were shared; a model that learnt them has to learn again")
    return ids, tuple(notes)
