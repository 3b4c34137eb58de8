"""From embeddings to IDs: made, given codebooks where they came without, and grown by new items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from holdfast._errors import BadInput, UnknownName
from holdfast.items.collisions import Collisions, collisions, resolved, suffixed
from holdfast.items.identifiers import ENDED, SemanticIDs
from holdfast.items.kmeans import Say, means
from holdfast.items.quality import quality
from holdfast.items.quantisers import check_vectors, nearest_codes, quantisers, sizes, without_rounding

Shared = Literal["move", "suffix", "keep"]
"""What is done about items that share an ID."""


def identify(
    items: Sequence[str],
    embeddings: Tensor,
    quantiser: str | Mapping[str, Any] = "residual",
    *,
    shared: Shared = "move",
    seed: int = 0,
    progress: Say | None = None,
) -> SemanticIDs:
    """Make IDs from the items' embeddings [items, dim] float32, unique by construction and of equal length.

    Args:
        quantiser: `residual`, `balanced` or `rqvae`, or `{name: {setting: value}}` (see `quantisers`).
        shared: "move" gives items that share an ID the nearest free codes (`collisions.resolved`); "suffix" gives
            every ID one token more, a number; "keep" leaves them.
        progress: takes a line now and then about how far it is.

    Returns:
        IDs whose `report` is what `quality` says, with the collisions before and after.

    Raises:
        BadInput: embeddings or settings that cannot be used, or fewer IDs than items; UnknownName for a name.
    """
    if shared not in ("move", "suffix", "keep"):
        raise UnknownName("way to part items that share an ID called", shared, ("move", "suffix", "keep"))
    check_vectors(embeddings)
    if len(items) != len(embeddings):
        raise BadInput(f"{len(embeddings)} embeddings do not go with {len(items)} items.")
    found = quantisers.made(quantiser)(embeddings, seed=seed, progress=progress)
    codes, books = found.codes.cpu(), tuple(book.cpu() for book in found.codebooks)
    before = collisions(codes)
    if progress:
        progress(f"{before.items} of {len(items)} items share an ID")
    if shared == "move":
        codes = resolved(codes, found.vectors.cpu(), books)
    elif shared == "suffix":
        codes = suffixed(codes)
        books = _numbered(books, codes)
    networks = {name: tensor.cpu() for name, tensor in found.networks.items()}
    settings = {"quantiser": quantiser, "shared": shared, "seed": seed}
    ids = SemanticIDs(tuple(items), codes, books, networks, shared == "suffix", settings)
    return _reported(ids, embeddings.cpu(), before)


def adopt(
    ids: SemanticIDs, embeddings: Tensor, *, codes: int | Sequence[int] | None = None, shared: Shared = "move"
) -> SemanticIDs:
    """Give IDs that came without codebooks some, fitted to the items' embeddings [items, dim], and part shared IDs.

    The row of a code is the mean of what the codes before leave of the embeddings of its items; a code of nobody
    stands at the mean of all. `codes` at each level are one more than the largest number in use unless told. IDs that
    no two items share stay as they are.

    Raises BadInput for IDs of several lengths, and as `identify`.
    """
    check_vectors(embeddings)
    if len(ids.items) != len(embeddings):
        raise BadInput(f"{len(embeddings)} embeddings do not go with {len(ids.items)} items.")
    if bool((ids.codes == ENDED).any()):
        raise BadInput("IDs of several lengths cannot be given codebooks. Make new ones with `identify`.")
    levels = ids.codes.shape[1]
    least = [int(top) + 1 for top in ids.codes.max(0).values]
    each = tuple(least) if codes is None else sizes(levels, codes)
    if any(size < need for size, need in zip(each, least, strict=True)):
        raise BadInput(f"IDs with numbers up to {[n - 1 for n in least]} need more codes than {list(each)}.")
    vectors, books = embeddings.float().cpu(), []
    left = vectors
    for level, size in enumerate(each):
        book, counted = means(left, ids.codes[:, level], size)
        books.append(torch.where((counted > 0)[:, None], book, left.mean(0)))
        left = without_rounding(left - books[-1][ids.codes[:, level]], vectors)
    before, codes_ = collisions(ids.codes), ids.codes
    if shared == "move":
        codes_ = resolved(codes_, vectors, books)
    elif shared == "suffix":
        codes_ = suffixed(codes_)
        books = [*_numbered(books, codes_)]
    settings = {**ids.settings, "adopted": True, "shared": shared}
    adopted = SemanticIDs(ids.items, codes_, tuple(books), {}, shared == "suffix", settings)
    return _reported(adopted, vectors, before)


def grow(ids: SemanticIDs, items: Sequence[str], embeddings: Tensor) -> SemanticIDs:
    """The IDs with new items after the old ones, whose IDs do not change, embedded [new items, dim] as those were.

    A new item takes the nearest code at each level, and where that ID is taken the nearest that is free, as
    `collisions.resolved` has it; with a numbered last level, the next number. The report is of the old IDs no longer,
    and empty.

    Raises BadInput for items that have an ID, embeddings that do not fit, IDs without codebooks or with shared ones,
    or when no ID is free.
    """
    check_vectors(embeddings)
    if len(items) != len(embeddings):
        raise BadInput(f"{len(embeddings)} embeddings do not go with {len(items)} new items.")
    if known := [item for item in items if item in ids.places]:
        raise BadInput(f"{len(known)} of the new items have an ID already, {known[0]!r} for one. Leave them out.")
    new = ids.vectors(embeddings.cpu())
    if collisions(ids.codes).items:
        raise BadInput("Some of these IDs are shared by several items. Part them first: `adopt(ids, embeddings)`.")
    everything = (*ids.items, *items)
    if ids.ordinal:
        codes = torch.cat([ids.codes[:, :-1], nearest_codes(new, ids.codebooks[:-1])])
        numbered = _after(ids.codes, codes)
        books = _numbered(ids.codebooks[:-1], numbered)
        return replace(ids, items=everything, codes=numbered, codebooks=books, report={})
    codes = torch.cat([ids.codes, nearest_codes(new, ids.codebooks)])
    # Codes that stay put are never looked up by their vectors, so the old items need none.
    vectors = torch.cat([new.new_zeros(len(ids.items), new.shape[1]), new])
    codes = resolved(codes, vectors, ids.codebooks, fixed=len(ids.items))
    return replace(ids, items=everything, codes=codes, report={})


def _numbered(books: Sequence[Tensor], codes: Tensor) -> tuple[Tensor, ...]:
    """The codebooks and one of zeros for the numbers in the last level."""
    return (*books, books[0].new_zeros(int(codes[:, -1].max()) + 1, books[0].shape[1]))


def _after(old: Tensor, codes: Tensor) -> Tensor:
    """Codes with a number for each item: the old ones theirs, each new one the next after those of its codes."""
    following: dict[tuple[int, ...], int] = {}
    for *beginning, number in old.tolist():
        key = tuple(beginning)
        following[key] = max(following.get(key, 0), number + 1)
    numbers = old[:, -1].tolist()
    for row in codes[len(old) :].tolist():
        numbers.append(following.get(tuple(row), 0))
        following[tuple(row)] = numbers[-1] + 1
    return torch.cat([codes, torch.tensor(numbers)[:, None]], 1)


def _reported(ids: SemanticIDs, embeddings: Tensor, before: Collisions) -> SemanticIDs:
    return replace(ids, report=quality(ids, embeddings, before=before).as_dict())
