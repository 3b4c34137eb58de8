"""Probes: the rows on which it is measured what a model kept or learnt, in parts that share nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from holdfast._errors import BadInput
from holdfast.base import Base
from holdfast.data.formats import Record, Text, read
from holdfast.data.pairs import pair_rows
from holdfast.data.rows import Row, Rows, in_turns, rows
from holdfast.data.rows import digest as rows_digest
from holdfast.data.rows import documents as documents_of
from holdfast.data.sampling import self_generated
from holdfast.data.splitting import documents, split
from holdfast.data.store import Folder

SELF = "self"
"""The name of the text that the base makes up itself."""

SOUND, CHAT = f"{SELF}/sound", f"{SELF}/chat"
"""Names of such text for rules: without what is badly made, and as conversations in the chat template."""


@dataclass(frozen=True)
class Probe:
    """Rows of one text that measure a model.

    `source` says in words where they come from, `digest` which they are, `documents` from how many texts.
    """

    name: str
    rows: Rows = field(repr=False)
    source: str
    digest: str = ""
    documents: int = field(init=False)

    def __post_init__(self) -> None:
        if not self.rows:
            raise BadInput(f"The probe {self.name!r} has no rows. Give more text, or shorter rows.")
        object.__setattr__(self, "documents", len(set(documents_of(self.rows))))
        object.__setattr__(self, "digest", self.digest or rows_digest(self.rows))


def probes(
    source: str,
    base: Base,
    shares: Mapping[str, float],
    *,
    length: int = 128,
    n: int = 1024,
    seed: int = 0,
    window: int = 13,
    dataset_split: str = "train",
    mapping: Mapping[str, str] | None = None,
    cache: Folder = None,
) -> dict[str, Probe]:
    """A text in named parts, such as control, audit and replay, that share no document, row or 13-word window.

    `source` is `self` (then `n` rows are sampled from the base, over all parts) or anything that `read` reads; what is
    split there are whole documents (see `documents` and `split`), then made into rows of `length` tokens, each document
    for itself (a separator would be ours, not the text's) and with an overlap of an eighth as context. Documents take
    turns, so that the first n rows say as much as n rows can. `window` counts
    words. Task files give rows with loss on the answer.
    """
    if source == SELF:
        drawn = self_generated(
            base.model, base.tokenizer, n=n, length=length, seed=seed, cache=cache, digest=base.digest
        )
        parts: dict[str, list[Row]] = split(drawn, shares, seed)
        origin = f"sampled from the base model {base.name}, seed {seed}"
        return {part: Probe(source, made, f"{origin}, part {part!r}") for part, made in parts.items()}
    records = pieces(read(source, split=dataset_split, mapping=mapping), len(shares))
    dealt = split(records, shares, seed, window=window)
    return {
        part: Probe(
            source,
            _rows(chosen, base, length),
            f"{source}, part {part!r}: {len(chosen)} of {len(records)} documents, seed {seed}",
        )
        for part, chosen in dealt.items()
    }


def _rows(records: Sequence[Record], base: Base, length: int) -> Rows:
    if base.model.config.is_encoder_decoder:
        return pair_rows(records, base.tokenizer, length=length)
    return in_turns(rows(records, base.tokenizer, length=length, pack=False, overlap=length // 8))


def pieces(records: Sequence[Record], parts: int) -> list[Record]:
    """The records, or, where they are too few to be dealt out, their texts in blocks."""
    enough = 10 * parts
    if len(records) >= enough:
        return list(records)
    size = min(1500, max(1, sum(len(r.text) for r in records if isinstance(r, Text)) // (2 * enough)))
    cut = ([Text(block) for block in documents(r.text, size=size)] if isinstance(r, Text) else [r] for r in records)
    return [piece for block in cut for piece in block]
