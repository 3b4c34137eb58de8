"""IDs that no two items share, whatever they were before."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.items.collisions import Collisions, collisions, resolved, suffixed
from holdfast.items.quantisers import residuals


def books(sizes: list[int], dim: int = 3, seed: int = 0) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(size, dim, generator=draws) / (level + 1) for level, size in enumerate(sizes)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 10**6), st.floats(0, 1), st.data())
def test_as_many_items_as_there_are_ids_all_get_their_own(
    sizes: list[int], seed: int, clumped: float, data: st.DataObject
) -> None:
    room = int(torch.tensor(sizes).prod())
    items = data.draw(st.integers(1, room))
    draws = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(size, (items,), generator=draws) for size in sizes], 1)
    codes[torch.rand(items, generator=draws) < clumped] = 0
    found = resolved(codes, torch.randn(items, 3, generator=draws), books(sizes))
    assert collisions(found) == Collisions(0, 0, 1)
    assert bool((found >= 0).all()) and bool((found < torch.tensor(sizes)).all())
    again, counts = torch.unique(codes, dim=0, return_counts=True)
    alone = {tuple(row) for row, count in zip(again.tolist(), counts.tolist(), strict=True) if count == 1}
    if max(Counter(map(tuple, codes[:, :-1].tolist())).values()) <= sizes[-1]:  # no beginning is overfull
        kept = [tuple(b) for a, b in zip(codes.tolist(), found.tolist(), strict=True) if tuple(a) in alone]
        assert set(kept) == alone and torch.equal(found[:, :-1], codes[:, :-1])


def test_items_that_share_take_the_nearest_free_codes() -> None:
    """Against every way to deal the free codes out."""
    given_books = books([2, 6])
    codes = torch.tensor([[0, 1], [0, 1], [0, 1], [0, 3], [1, 1]])
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(4))
    found = resolved(codes, vectors, given_books)
    assert torch.equal(found[3:], codes[3:]) and found[:3, 0].tolist() == [0, 0, 0]
    costs = torch.cdist(residuals(vectors[:3], codes[:3, :1], given_books), given_books[1]).square()
    best = min(permutations([0, 1, 2, 4, 5], 3), key=lambda p: sum(float(costs[i, c]) for i, c in enumerate(p)))
    assert found[:3, 1].tolist() == list(best)


def test_a_beginning_that_is_overfull_sends_items_elsewhere() -> None:
    codes = torch.zeros(7, 3, dtype=torch.int64)
    found = resolved(codes, torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), books([2, 2, 2]))
    assert collisions(found).items == 0
    assert sorted(torch.bincount(found[:, 0]).tolist()) == [3, 4]


def test_items_without_any_difference_are_parted_too() -> None:
    found = resolved(torch.zeros(60, 3, dtype=torch.int64), torch.zeros(60, 3), [torch.zeros(4, 3)] * 3)
    assert collisions(found).items == 0


def test_fixed_items_keep_their_codes() -> None:
    codes = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0], [0, 0], [0, 1]])
    found = resolved(codes, torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), books([2, 3]), fixed=3)
    assert torch.equal(found[:3], codes[:3]) and collisions(found).items == 0


def test_more_items_than_ids_are_refused_with_the_numbers() -> None:
    with pytest.raises(BadInput, match="7 items need as many IDs, and 2 x 3 codes make 6"):
        resolved(torch.zeros(7, 2, dtype=torch.int64), torch.zeros(7, 3), books([2, 3]))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_a_suffix_counts_items_of_equal_codes(rows: list[tuple[int, int]]) -> None:
    found = suffixed(torch.tensor(rows))
    expected, seen = [], Counter[tuple[int, int]]()
    for row in rows:
        expected.append([*row, seen[row]])
        seen[row] += 1
    assert found.tolist() == expected


def test_collisions_are_counted_by_items_groups_and_the_largest() -> None:
    codes = torch.tensor([[0, 1], [0, 1], [0, 1], [2, 2], [2, 2], [0, 2]])
    assert collisions(codes) == Collisions(5, 2, 3)
    assert collisions(codes).as_dict() == {"items": 5, "groups": 2, "largest": 3}
    assert collisions(codes[:, :1]).largest == 4
