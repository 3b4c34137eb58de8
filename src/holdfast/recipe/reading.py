"""Rows as one base reads them: running text begins the way it finds least surprising, and some text it makes up."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.base import Base
from holdfast.data.conversations import conversations
from holdfast.data.formats import Record, Text, read
from holdfast.data.pairs import pair_rows
from holdfast.data.probes import CHAT, SELF, Probe, probes
from holdfast.data.quality import sound, usual
from holdfast.data.rows import IGNORED, Row, Rows, in_turns, rows, start
from holdfast.evaluation.loss import sequence_losses
from holdfast.vocabulary.rows import as_before

logger = logging.getLogger(__name__)

TRIED = 32
"""Rows on which it is tried whether they begin with BOS."""


class Reader:
    """Makes rows of at most `length` tokens for a base, always the same ones for the same `seed`."""

    def __init__(self, base: Base, length: int, seed: int = 0):
        self.base, self.length, self.seed = base, length, seed

    @property
    def writes(self) -> bool:
        """Whether the base has a decoder that writes what its encoder has read: its rows are pairs."""
        return bool(self.base.model.config.is_encoder_decoder)

    def lessons(self, records: Sequence[Record], opening: str = "auto") -> Rows:
        """Rows to learn from: running text packed into full ones, anything else one each."""
        if self.writes:
            return pair_rows(records, self.base.tokenizer, length=self.length)
        bare = self.bare(records, opening)
        made = rows(records, self.base.tokenizer, length=self.length + bare)
        return [_without_first(row) for row in made] if bare else made

    def probe(
        self, name: str, records: Sequence[Record], source: str, opening: str = "auto", most: int = 1024
    ) -> Probe:
        """Rows to measure on, at most so many: each text for itself, with some context where a row begins inside it."""
        if self.writes:
            return Probe(name, pair_rows(records, self.base.tokenizer, length=self.length)[:most], source)
        bare = self.bare(records, opening)
        length = self.length + bare
        made = in_turns(rows(records, self.base.tokenizer, length=length, pack=False, overlap=length // 8))[:most]
        return Probe(name, [_without_first(row) for row in made] if bare else made, source)

    def parts(self, source: str, shares: Mapping[str, float]) -> dict[str, Probe]:
        """A text in parts that share nothing; the part that must stay whole comes first."""
        bare = self.bare(read(source), "auto")
        made = probes(source, self.base, shares, length=self.length + bare, seed=self.seed)
        return {part: _stripped(probe) if bare else probe for part, probe in made.items()}

    def made_up(self, n: int) -> dict[str, Probe]:
        """About `n` rows that the base wrote, half of them `control`, half `audit`; each from a text of its own.

        Openings and middles of texts take turns.
        """
        openings, middles = self._drawn(n // 2, 1, salt=0), self._drawn(n // 2, 2, salt=1)
        seen: set[tuple[int, ...]] = set()
        made = {}
        for part, probe in openings.items():
            ends = [_cut(row, self.length)[-1] for row in middles[part].rows]
            mixed = [row for pair in zip(probe.rows, ends, strict=False) for row in pair]
            made[part] = replace(probe, rows=_unseen(mixed, seen), digest="")
        return made

    def more_made_up(self, n: int, without: Sequence[Row] = ()) -> Rows:
        """About `n` rows for rules, openings and middles of other texts that the base wrote, none of `without`."""
        drawn = self._drawn(n // 2, 2, salt=2)
        cut = [piece for probe in drawn.values() for row in probe.rows for piece in _cut(row, self.length)]
        return _unseen(cut, {tuple(row["input_ids"]) for row in without})

    def written(self, name: str, n: int, without: Sequence[Row] = ()) -> Rows:
        """About `n` rows that the base wrote: `self`, or what is left of such by `self/sound` or `self/chat`."""
        if name == SELF:
            return self.more_made_up(n, without)
        return self.well_made(name, n, without)

    def well_made(self, name: str, n: int, without: Sequence[Row] = ()) -> Rows:
        """Like `more_made_up`, or conversations where that is the name; only what is sound, and not the oddest rows."""
        base = self.base
        if name == CHAT:
            with as_before(base.model):
                made = conversations(
                    base.model, base.tokenizer, n=n, length=self.length, seed=self.seed, digest=base.digest
                )
        else:
            made = sound(self.more_made_up(n, without))
        with as_before(base.model):
            return usual(made, sequence_losses(base.model, made, pad_id=base.pad_id).each())

    def bare(self, records: Sequence[Record], opening: str) -> bool:
        """Whether rows of running text go without the BOS that rows begin with otherwise.

        `opening` is `bos`, `none`, or `auto`, which tries both. Bases that were trained on one long stream never saw a
        BOS in the middle of a text. With it such rows look harder than they are, and mending that would count as
        learning, or make up for forgetting.
        """
        if not start(self.base.tokenizer) or not all(isinstance(record, Text) for record in records):
            return False
        measurable = self.base.model.device.type != "meta"
        return opening == "none" or (opening == "auto" and measurable and self._better_bare(records))

    def _better_bare(self, records: Sequence[Record]) -> bool:
        enough = 16 * TRIED * self.length  # characters; no tokenizer makes tokens as long as that on average
        openings = [Text(r.text[:enough]) for r in records[:TRIED] if isinstance(r, Text)]
        tried = rows(openings, self.base.tokenizer, length=self.length + 1)[:TRIED]
        if not (tried := [row for row in tried if len(row["input_ids"]) > 2]):
            return False
        begun = [{**row, "labels": [IGNORED, IGNORED, *row["labels"][2:]]} for row in tried]
        losses = [sequence_losses(self.base.model, r).mean() for r in (begun, [_without_first(row) for row in tried])]
        logger.info("Rows that begin with BOS: %.3f nats per token; rows that do not: %.3f.", *losses)
        return losses[1] < losses[0]

    def _drawn(self, n: int, lengths: int, salt: int) -> dict[str, Probe]:
        """`n` texts of so many times the rows' length, or as long as the base can write."""
        room = getattr(self.base.model.config.get_text_config(), "max_position_embeddings", None)
        length = lengths * self.length
        length = length if room is None else min(length, max(room, self.length))
        shares = {"audit": 0.5, "control": 0.5}
        with as_before(self.base.model):
            return probes(SELF, self.base, shares, length=length, n=max(n, 2), seed=3 * self.seed + salt)


def _without_first(row: Row) -> Row:
    return {key: values[1:] for key, values in row.items()}


def _stripped(probe: Probe) -> Probe:
    return replace(probe, rows=[_without_first(row) for row in probe.rows], digest="")


def _cut(row: Row, length: int) -> Rows:
    """A row in pieces of `length` tokens; the last one starts earlier, so that it is as long."""
    latest = max(len(row["input_ids"]) - length, 0)
    starts = [*range(0, latest, length), latest]
    return [{key: values[at : at + length] for key, values in row.items()} for at in starts]


def _unseen(made: Sequence[Row], seen: set[tuple[int, ...]]) -> Rows:
    """Rows that were not seen before; all of them are seen then."""
    fresh = [row for row in made if tuple(row["input_ids"]) not in seen]
    seen |= {tuple(row["input_ids"]) for row in fresh}
    return fresh
