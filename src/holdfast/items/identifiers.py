"""Semantic IDs: a few tokens for each item, such that items alike begin alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor

from holdfast._errors import BadInput, UnknownName
from holdfast.items.rqvae import encoded

ENDED = -1
"""Stands in `codes` where an ID is shorter than others."""

_TOKEN = re.compile(r"<([a-z])_(0|[1-9]\d{0,8})>")


@dataclass(frozen=True, eq=False)
class SemanticIDs:
    """The IDs of items, in order, and what they were made with.

    Args:
        items: the items' own keys, each once.
        codes: [items, levels] int64, code by level; -1 where an ID has ended.
        codebooks: a float32 tensor [codes, dim] per level, in the space of the embeddings, or of the encoder where
            there are `networks`; empty for IDs that came without.
        networks: encoder and decoder of an RQ-VAE by name; empty otherwise.
        ordinal: the last level only numbers items that are otherwise alike; its vectors are zero.
        settings: what they were made with, as plain values.
        report: what was measured then, as plain values.

    Raises BadInput when items are named twice, or the parts do not fit each other.
    """

    items: tuple[str, ...]
    codes: Tensor
    codebooks: tuple[Tensor, ...] = ()
    networks: Mapping[str, Tensor] = field(default_factory=dict)
    ordinal: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or len(self.items) != len(self.codes):
            raise BadInput(f"{len(self.items)} items have no codes of shape {[*self.codes.shape]}.")
        if len(self.places) != len(self.items):
            twice = next(item for i, item in enumerate(self.items) if self.places[item] != i)
            raise BadInput(f"Item {twice!r} is named twice. Every item has one ID.")
        if self.codebooks:
            sizes = torch.tensor([len(book) for book in self.codebooks])
            if len(sizes) != self.codes.shape[1] or bool((self.codes >= sizes).any()):
                raise BadInput(f"Codebooks of {sizes.tolist()} codes do not hold all codes of these IDs.")

    @cached_property
    def places(self) -> dict[str, int]:
        """The row of each item."""
        return {item: i for i, item in enumerate(self.items)}

    @cached_property
    def tokens(self) -> dict[str, tuple[str, ...]]:
        """The tokens of each item's ID: `{"0": ("<a_236>", "<b_231>", "<c_226>"), ...}`."""
        rows = zip(self.items, self.codes.tolist(), strict=True)
        return {item: tuple(token(i, code) for i, code in enumerate(row) if code != ENDED) for item, row in rows}

    def of(self, item: str) -> tuple[str, ...]:
        """The tokens of one item; raises UnknownName."""
        if item not in self.tokens:
            raise UnknownName("item", item, self.items)
        return self.tokens[item]

    @property
    def vocabulary(self) -> list[str]:
        """The tokens that some item has, by level and number."""
        return [token(level, code) for level, code in self._used()]

    def token_vectors(self) -> dict[str, Tensor]:
        """The row [dim] of its codebook for each token of the vocabulary; raises BadInput without codebooks."""
        self.need_codebooks()
        return {token(level, code): self.codebooks[level][code] for level, code in self._used()}

    def vectors(self, embeddings: Tensor) -> Tensor:
        """What the codes stand for of embeddings [items, dim]: these themselves, or what the encoder makes of them.

        Raises BadInput without codebooks, and for embeddings of another width.
        """
        self.need_codebooks()
        width = self.networks["input.mean"] if self.networks else self.codebooks[0][0]
        if embeddings.ndim != 2 or embeddings.shape[1] != len(width):
            raise BadInput(
                f"These IDs were made from embeddings [items, {len(width)}], not {[*embeddings.shape]}. "
                "Embed the items as it was done then."
            )
        return encoded(self.networks, embeddings.float()) if self.networks else embeddings.float()

    def need_codebooks(self) -> None:
        """Raise BadInput unless there are codebooks."""
        if not self.codebooks:
            raise BadInput(
                "These IDs came without codebooks (no .codes.safetensors beside the index). "
                "Give them some from the items' embeddings: `adopt(ids, embeddings)`."
            )

    def _used(self) -> list[tuple[int, int]]:
        columns = enumerate(self.codes.unbind(1))
        return [(level, code) for level, column in columns for code in torch.unique(column).tolist() if code != ENDED]


def token(level: int, code: int) -> str:
    """The token of a code: `<a_236>` at level 0.

    >>> token(2, 226)
    '<c_226>'
    """
    return f"<{ascii_lowercase[level]}_{code}>"


def parsed(tokens: Sequence[str]) -> list[int]:
    """The codes of an ID's tokens; raises ValueError for one that is not of the form, or out of its place.

    >>> parsed(["<a_236>", "<b_231>", "<c_226>"])
    [236, 231, 226]
    """
    found = []
    for letter, text in zip(ascii_lowercase, tokens, strict=False):
        match = _TOKEN.fullmatch(text)
        if match is None or match[1] != letter:
            raise ValueError(f"{text!r} stands where a token like <{letter}_12> should")
        found.append(int(match[2]))
    if len(found) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens are more than there are letters")
    return found
