"""What semantic IDs are worth: codes in use, what they tell of the embeddings, and whether items alike begin alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.items.collisions import Collisions, collisions
from holdfast.items.identifiers import ENDED, SemanticIDs
from holdfast.items.quantisers import squared
from holdfast.items.rqvae import decoded

NEIGHBOURS, QUERIES, BLOCK = 10, 4_000, 512
"""Neighbours looked at, items whose neighbours are looked at where there are more, and how many at once."""


@dataclass(frozen=True)
class Level:
    """One level: codes there are (None without a codebook), codes in use, how evenly, and the sizes of those in use.

    `perplexity` is exp of the entropy of the codes in nats: as many codes in even use would be as uneven. `error` is
    the squared error of what the IDs say up to this level, relative to that of the embeddings' mean.
    """

    codes: int | None
    used: int
    perplexity: float
    smallest: int
    largest: int
    error: float | None


@dataclass(frozen=True)
class Neighbourhood:
    """Share of an item's nearest neighbours that have its first `depth` codes, and of all other items, for comparison.

    The second is exactly what IDs dealt out at random would give; `lift` is the ratio, None
    where no two items begin alike.
    """

    depth: int
    share: float
    by_chance: float
    lift: float | None


@dataclass(frozen=True)
class Quality:
    """The whole report; `before` are the collisions before they were resolved, where that is known."""

    items: int
    levels: tuple[Level, ...]
    before: Collisions | None
    after: Collisions
    neighbourhoods: tuple[Neighbourhood, ...]

    @property
    def error(self) -> float | None:
        """Squared error of what the IDs say, relative to that of the embeddings' mean; None without codebooks."""
        return self.levels[-1].error

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self) | {"error": self.error}


def quality(
    ids: SemanticIDs, embeddings: Tensor | None = None, *, before: Collisions | None = None, seed: int = 0
) -> Quality:
    """Measure IDs, with the items' embeddings [items, dim] also what they tell of these.

    Neighbours are the 10 nearest by Euclidean distance, those of 4,000 items drawn by `seed` where there are more.
    Raises BadInput for embeddings of another number of items, or of another width than the IDs were made from.
    """
    if embeddings is not None and len(embeddings) != len(ids.items):
        raise BadInput(f"{len(embeddings)} embeddings do not go with {len(ids.items)} items.")
    errors: list[float | None] = [None] * ids.codes.shape[1]
    if embeddings is not None and ids.codebooks:
        errors = list(_errors(ids, embeddings.float()))
    levels = tuple(_level(ids, i, error) for i, error in enumerate(errors))
    near = () if embeddings is None else neighbourhoods(ids.codes, embeddings.float(), seed=seed)
    return Quality(len(ids.items), levels, before, collisions(ids.codes), near)


def neighbourhoods(codes: Tensor, embeddings: Tensor, *, seed: int = 0) -> tuple[Neighbourhood, ...]:
    """How much more alike the first one and the first two codes are among neighbours; empty for a single item."""
    items, near = len(codes), min(NEIGHBOURS, len(codes) - 1)
    if near < 1:
        return ()
    queries = torch.randperm(items, generator=torch.Generator().manual_seed(seed))[:QUERIES].sort().values
    found = torch.cat([_nearest(embeddings, block, near) for block in torch.split(queries, BLOCK)])
    return tuple(_shared(codes[:, :depth], queries, found) for depth in (1, 2) if depth <= codes.shape[1])


def _nearest(embeddings: Tensor, queries: Tensor, near: int) -> Tensor:
    """The nearest other items of each query [queries, near]."""
    distances = squared(embeddings[queries], embeddings)
    distances[torch.arange(len(queries)), queries] = torch.inf
    return distances.topk(near, largest=False).indices.cpu()


def _shared(codes: Tensor, queries: Tensor, near: Tensor) -> Neighbourhood:
    _, group, counts = torch.unique(codes, dim=0, return_inverse=True, return_counts=True)
    share = float((group[near] == group[queries][:, None]).double().mean())
    items = len(codes)
    chance = float((counts.double() * (counts - 1)).sum()) / (items * (items - 1))
    return Neighbourhood(codes.shape[1], share, chance, share / chance if chance else None)


def _level(ids: SemanticIDs, level: int, error: float | None) -> Level:
    column = ids.codes[:, level]
    _, counts = torch.unique(column[column != ENDED], return_counts=True)
    shares = counts.double() / counts.sum()
    perplexity = float((-(shares * shares.log()).sum()).exp())
    available = len(ids.codebooks[level]) if ids.codebooks else None
    return Level(available, len(counts), perplexity, int(counts.min()), int(counts.max()), error)


def _errors(ids: SemanticIDs, embeddings: Tensor) -> Iterator[float]:
    """The relative squared error after each level."""
    ids.vectors(embeddings[:1])
    whole = float((embeddings - embeddings.mean(0)).square().sum(dtype=torch.float64))
    said = torch.zeros(len(embeddings), ids.codebooks[0].shape[1])
    for level, book in enumerate(ids.codebooks):
        said = said + book[ids.codes[:, level]]
        again = decoded(ids.networks, said) if ids.networks else said
        yield float((embeddings - again).square().sum(dtype=torch.float64)) / whole if whole else 0.0
