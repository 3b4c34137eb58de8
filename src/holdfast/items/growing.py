"""How IDs become a tree: checked, laid side by side, and numbered level by level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast._errors import BadInput

Numbers = NDArray[np.int64]

DEAD, ROOT = -1, 0
"""The state of a path that is in no item's ID, and the one where every ID begins."""


def numbered(names: Sequence[str], item: object, known: Mapping[str, int]) -> list[int]:
    """The ids of an ID's tokens by the tokenizer's vocabulary; raises BadInput for one that it lacks."""
    strange = next((name for name in names if name not in known), None)
    if strange is not None:
        raise BadInput(
            f"The tokenizer has no token {strange!r}, which the ID of item {item!r} holds. Add the tokens of the "
            "index to the tokenizer (and their rows to the model) first."
        )
    return [known[name] for name in names]


def table_of(ids: Mapping[Any, Sequence[int]], vocabulary: int | None, unknown: int | None) -> Numbers:
    """All IDs, int64 [items, longest], filled up with DEAD."""
    if not ids:
        raise BadInput("There are no items to build a trie from.")
    rows = [_checked(item, tokens, vocabulary, unknown) for item, tokens in ids.items()]
    table = np.full((len(rows), max(map(len, rows))), DEAD, dtype=np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def _checked(item: object, tokens: Iterable[Any], vocabulary: int | None, unknown: int | None) -> list[int]:
    try:
        row = [token.__index__() for token in tokens]
    except (AttributeError, TypeError) as error:
        raise BadInput(
            f"The ID of item {item!r} is not made of token ids: {tokens!r}. Names of tokens and texts go through "
            "`Trie.from_tokens`."
        ) from error
    if not row:
        raise BadInput(f"The ID of item {item!r} is empty. Give every item at least one token.")
    for token in row:
        if token < 0 or (vocabulary is not None and token >= vocabulary):
            raise BadInput(
                f"The ID of item {item!r} holds the token {token}, outside a vocabulary of {vocabulary or 'ids from 0'}"
                ". Add the new tokens to the tokenizer and the model first."
            )
        if token == unknown:
            raise BadInput(
                f"The ID of item {item!r} holds the unknown token ({token}): the tokenizer does not know a part of it. "
                "Add the tokens of the index to the tokenizer first."
            )
    return row


def grown(table: Numbers, width: int) -> tuple[Numbers, Numbers, Numbers]:
    """Sorted keys (state * width + token) of all edges, the state each leads to, and where each item's ID ends."""
    ending = np.full(len(table), ROOT, dtype=np.int64)
    keys, children, count = [], [], 1
    for column in table.T:
        going = column >= 0
        found, first, inverse = np.unique(ending[going] * width + column[going], return_index=True, return_inverse=True)
        numbers = count + np.argsort(np.argsort(first))
        ending[going] = numbers[inverse]
        keys.append(found)
        children.append(numbers)
        count += len(found)
    return np.concatenate(keys), np.concatenate(children), ending


def lengths_of(parents: Numbers) -> Numbers:
    """Tokens from the root to each state."""
    lengths, above = np.zeros_like(parents), parents.copy()
    while (above > DEAD).any():
        lengths += above > DEAD
        above = np.where(above > DEAD, parents[above], DEAD)
    return lengths


def summed(counts: Tensor, parents: Tensor, lengths: Tensor) -> Tensor:
    """Counts [rows, states] in place, those of all states below added to each."""
    borders = torch.searchsorted(lengths, torch.arange(int(lengths.max()) + 2, device=lengths.device)).tolist()
    for level in range(len(borders) - 2, 0, -1):
        states = slice(borders[level], borders[level + 1])
        counts.index_add_(1, parents[states], counts[:, states].clone())  # they share memory
    return counts


def groups(order: Numbers, ending: Numbers) -> tuple[list[int], list[list[int]]]:
    """The states where IDs end and the numbers of the items of each, from both sorted by state."""
    states, first = np.unique(ending, return_index=True)
    return states.tolist(), [group.tolist() for group in np.split(order, first[1:])]
