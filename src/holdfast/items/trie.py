"""The items' token ids as one prefix tree in tensors, and what is left of it where some items are not wanted."""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.data.rows import tokens as tokenised
from holdfast.items.growing import DEAD, ROOT, groups, grown, lengths_of, numbered, summed, table_of

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Left:
    """What is left of a trie for each prompt, bool [prompts, states]: items at a state or `below` it, items `here`."""

    below: Tensor
    here: Tensor

    def to(self, device: torch.device | str) -> Left:
        """The same on a device."""
        return Left(self.below.to(device), self.here.to(device))


class Trie(Generic[Item]):
    """A prefix tree over token ids (de Cao et al. 2021, "Autoregressive entity retrieval", arXiv:2010.00904).

    Built from {item: token ids}, in the items' order, which settles all ties. States are numbered level by level, in
    the order of the first item below each; the edges stand sorted by state and token, so that one binary search takes
    any number of paths a token further. 100,000 items of 4 tokens take about 17 MB. An ID may be the beginning of
    another, and items may share one: `collisions` tells which.

    Raises BadInput for no items, for an empty ID, for what is no token id, for an id outside `vocabulary` (the number
    of tokens that the model knows) and for the token `unknown`, which stands for words that the tokenizer lacks.

    >>> trie = Trie({"nut": [7, 1], "bolt": [7, 2], "tape": [9]})
    >>> trie.step(torch.tensor([0, 0, 0]), torch.tensor([7, 8, 9]))
    tensor([ 1, -1,  2])
    """

    def __init__(self, ids: Mapping[Item, Sequence[int]], *, vocabulary: int | None = None, unknown: int | None = None):
        self.items: tuple[Item, ...] = tuple(ids)
        table = table_of(ids, vocabulary, unknown)
        self.depth, self.width = table.shape[1], int(table.max()) + 1
        keys, children, ending = grown(table, self.width)
        size = len(keys) + 1
        parents, via = np.full(size, DEAD), np.full(size, DEAD)
        parents[children], via[children] = keys // self.width, keys % self.width
        here = np.bincount(ending, minlength=size)
        self.keys, self.children, self.ending = map(torch.from_numpy, (keys, children, ending))
        self.parents, self.via, self.here = map(torch.from_numpy, (parents, via, here))
        self.starts = torch.from_numpy(np.searchsorted(keys, np.arange(size + 1) * self.width))
        self.branching = self.starts.diff() > 0  # whether an ID goes on
        self.lengths = torch.from_numpy(lengths_of(parents))
        self.below = summed(self.here[None].clone(), self.parents, self.lengths)[0]
        self._numbers = {item: number for number, item in enumerate(self.items)}
        order = np.argsort(ending, kind="stable")
        self._at = dict(zip(*groups(order, ending[order]), strict=True))

    @classmethod
    def from_tokens(
        cls,
        names: Mapping[Item, str | Sequence[str]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocabulary: int | None = None,
    ) -> Trie[Item]:
        """A trie of IDs as a tokenizer has them: names of tokens, or a text, which becomes tokens as it stands there.

        Raises BadInput as above, for names that the tokenizer lacks too.
        """
        known = tokenizer.get_vocab()
        found = {
            item: tokenised(tokenizer, name) if isinstance(name, str) else numbered(name, item, known)
            for item, name in names.items()
        }
        return cls(found, vocabulary=vocabulary, unknown=tokenizer.unk_token_id)

    def __len__(self) -> int:
        """The number of states."""
        return len(self.parents)

    @property
    def ragged(self) -> bool:
        """Whether IDs differ in length, so that a model has to say where one ends."""
        return bool((self.lengths[self.ending] < self.depth).any())

    @property
    def collisions(self) -> list[list[Item]]:
        """The groups of items that share one ID and that no search can tell apart."""
        return [[self.items[i] for i in group] for group in self._at.values() if len(group) > 1]

    def at(self, state: int) -> Sequence[int]:
        """The numbers of the items whose ID ends at a state, in order."""
        return self._at.get(state, ())

    def path(self, state: int) -> list[int]:
        """The token ids that lead to a state."""
        found: list[int] = []
        while state != ROOT:
            found.append(int(self.via[state]))
            state = int(self.parents[state])
        return found[::-1]

    def to(self, device: torch.device | str) -> Trie[Item]:
        """The same trie on a device."""
        moved = copy.copy(self)
        vars(moved).update({name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)})
        return moved

    def step(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The states one token further, int64 of any shape; DEAD where no ID goes on so."""
        wanted = states * self.width + tokens
        at = torch.searchsorted(self.keys, wanted).clamp_max_(len(self.keys) - 1)
        known = (self.keys[at] == wanted) & (states >= 0) & (tokens >= 0) & (tokens < self.width)
        return self.children[at].where(known, DEAD)

    def walk(self, tokens: Tensor, end: int | None = None) -> tuple[Tensor, Tensor]:
        """From the root along `tokens` [rows, n]: the states, int64 [rows], and whether `end` stopped there, bool."""
        states = tokens.new_full(tokens.shape[:1], ROOT)
        ended = torch.zeros_like(states, dtype=torch.bool)
        for column in tokens.unbind(1):
            ended = ended | (column == (DEAD if end is None else end))
            states = states.where(ended, self.step(states, column))
        return states, ended

    def allowed(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that go on from `states` [...] and where they lead, int64 [..., most branches of a state].

        Where a state has fewer branches, the rest leads to DEAD (and the token there is any).
        """
        known = states.clamp_min(ROOT)
        first = self.starts[known]
        counts = (self.starts[known + 1] - first).where(states >= 0, 0)
        columns = torch.arange(int(counts.max()) if counts.numel() else 0, device=states.device)
        at = (first[..., None] + columns).clamp_max_(len(self.keys) - 1)
        return self.keys[at] % self.width, self.children[at].where(columns < counts[..., None], DEAD)

    def without(self, excluded: Sequence[Collection[Item]]) -> Left:
        """What is left of the trie for each prompt without the items excluded for it, on the trie's device.

        Raises BadInput for an item that the trie does not have: another spelling would go unnoticed.
        """
        if not any(excluded):
            return Left((self.below > 0).expand(len(excluded), -1), (self.here > 0).expand(len(excluded), -1))
        gone = torch.zeros(len(excluded), len(self), dtype=torch.int32, device=self.here.device)
        for row, items in zip(gone, excluded, strict=True):
            ends = self.ending[torch.tensor(self.numbers(items), dtype=torch.int64, device=row.device)]
            row.index_add_(0, ends, torch.ones_like(ends, dtype=row.dtype))
        here = self.here > gone
        return Left(self.below > summed(gone, self.parents, self.lengths), here)

    def fits(self, vocabulary: int) -> None:
        """Raise BadInput where IDs hold tokens that a model with so many logits does not know."""
        if self.width > vocabulary:
            raise BadInput(
                f"The items' IDs hold the token {self.width - 1}, and the model knows {vocabulary} tokens, from 0 on. "
                "Add the new tokens to the model before you search, or take the tokenizer that belongs to it."
            )

    def numbers(self, items: Collection[Item]) -> list[int]:
        """The numbers of items, each once; raises BadInput for one that the trie does not have."""
        strange = next((item for item in items if item not in self._numbers), None)
        if strange is not None:
            raise BadInput(
                f"{strange!r} is to be excluded, and is no item of this trie (they are like {self.items[0]!r}). "
                "Spell items as there, and leave out those that it does not have."
            )
        return [self._numbers[item] for item in set(items)]
