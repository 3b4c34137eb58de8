"""Items that share an ID: how many they are, and IDs that no two items share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.items.assignment import placed
from holdfast.items.quantisers import nearest_codes, residuals, squared


@dataclass(frozen=True)
class Collisions:
    """Items that share their ID with another, how many IDs they have together, and the most that share one."""

    items: int
    groups: int
    largest: int

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def collisions(codes: Tensor) -> Collisions:
    """Count the items of codes [items, levels] that share all codes with another."""
    _, counts = torch.unique(codes, dim=0, return_counts=True)
    shared = counts[counts > 1]
    return Collisions(int(shared.sum()), len(shared), int(counts.max()) if len(counts) else 0)


def resolved(codes: Tensor, vectors: Tensor, codebooks: Sequence[Tensor], *, fixed: int = 0) -> Tensor:
    """Codes [items, levels] of which no two are equal, as long as before, and equal where nothing was shared.

    Items that share an ID are given the free codes of the last level that are nearest to what the levels before leave
    of their vectors [items, dim]: at the least total squared distance among those that share their other codes. Where
    more share the beginning of an ID than there are IDs that begin so, the surplus is moved at an earlier level by the
    same rule, and chooses the nearest codes after that. The first `fixed` items keep their codes, which are unique.

    Raises BadInput when there are more items than IDs; otherwise it always succeeds.
    """
    sizes = [len(book) for book in codebooks]
    if len(codes) > math.prod(sizes):
        told = " x ".join(map(str, sizes))
        raise BadInput(
            f"{len(codes):,} items need as many IDs, and {told} codes make {math.prod(sizes):,}. "
            "Take more codes or more levels."
        )
    codes = codes.clone()
    for level in range(len(sizes)):
        room = math.prod(sizes[level + 1 :])
        for items in _crowded(codes, level, room):
            _part(codes, vectors, codebooks, items, level, room, fixed)
    return codes


def suffixed(codes: Tensor) -> Tensor:
    """Codes [items, levels + 1] with one level more for every item: its number, from 0, among those of equal codes."""
    return torch.cat([codes, _ordinals(codes)[:, None]], 1)


def _ordinals(codes: Tensor) -> Tensor:
    _, group, counts = torch.unique(codes, dim=0, return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    first = counts.cumsum(0) - counts
    found = torch.empty_like(group)
    found[order] = torch.arange(len(group), device=group.device) - first[group[order]]
    return found


def _crowded(codes: Tensor, level: int, room: int) -> list[Tensor]:
    """The items below each beginning of `level` codes of which some next code has more items than room."""
    if room >= len(codes):
        return []
    _, group, counts = torch.unique(codes[:, : level + 1], dim=0, return_inverse=True, return_counts=True)
    over = counts[group] > room
    if not over.any():
        return []
    if level == 0:
        return [torch.arange(len(codes), device=codes.device)]
    _, parent, counts = torch.unique(codes[:, :level], dim=0, return_inverse=True, return_counts=True)
    parts = torch.split(parent.argsort(stable=True), counts.tolist())
    return [parts[i] for i in torch.unique(parent[over]).tolist()]


def _part(
    codes: Tensor, vectors: Tensor, codebooks: Sequence[Tensor], items: Tensor, level: int, room: int, fixed: int
) -> None:
    """Give items with the same codes before `level` codes at it with at most `room` items each, in place."""
    places = torch.full((len(codebooks[level]),), room, device=codes.device)
    stays = items < fixed
    places -= torch.bincount(codes[items[stays], level], minlength=len(places))
    free = items[~stays]
    left = residuals(vectors[free], codes[free, :level], codebooks)
    wanted = codes[free, level]
    found = placed(squared(left, codebooks[level]), wanted, places)
    moved = found != wanted
    codes[free, level] = found
    if moved.any() and level + 1 < len(codebooks):
        further = left[moved] - codebooks[level][found[moved]]
        codes[free[moved], level + 1 :] = nearest_codes(further, codebooks[level + 1 :])
