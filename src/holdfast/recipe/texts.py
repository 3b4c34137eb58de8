"""The rows of a recipe: what is learnt, what is measured on it, and each guarded text in three parts that share nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from holdfast._errors import BadInput
from holdfast.base import Base
from holdfast.data.formats import Record, Text, read
from holdfast.data.probes import SELF, Probe, pieces, probes
from holdfast.data.rows import IGNORED, Row, Rows, rows, start
from holdfast.data.splitting import split
from holdfast.evaluation.loss import sequence_losses
from holdfast.recipe.schema import Learn, Recipe

logger = logging.getLogger(__name__)

TRIED = 32
"""Rows on which it is tried whether they begin with BOS."""

MEASURED = 1024
"""Most rows that what was learnt is measured on."""


@dataclass(frozen=True)
class Guarded:
    """A text that is to be kept: `control` steers the run, `audit` judges it once, at the end; no row is in both."""

    name: str
    control: Probe
    audit: Probe


class Texts:
    """All rows of a run, made from its recipe and its untrained base, each when it is first asked for."""

    def __init__(self, recipe: Recipe, base: Base):
        self.recipe, self.base = recipe, base

    @cached_property
    def learn(self) -> tuple[Rows, Probe]:
        """The rows to learn from, and the probe that measures it on other documents."""
        learn, source = self.recipe.learn, self.recipe.learn.data
        records = read(source, split=learn.split, mapping=learn.mapping)
        own = learn.evaluation or (source if self._has_test(records) else None)
        if own is None:
            dealt = self._held_out(records)
            return self._packed(dealt["train"]), self._probe(source, dealt["evaluation"], "a tenth of its documents")
        held = read(own, split="test", mapping=learn.mapping)
        return self._packed(records), self._probe(own, held, "all of it" if own != source else "its own test split")

    @cached_property
    def guarded(self) -> dict[str, Guarded]:
        """The texts to be kept, by name."""
        half = self.recipe.keep.rows // 2
        made = {name: self._self(0) if name == SELF else self._suites[name] for name in self.recipe.keep.texts}
        return {
            name: Guarded(name, _first(parts["control"], half), _first(parts["audit"], half))
            for name, parts in made.items()
        }

    def source(self, names: str | Sequence[str]) -> Rows:
        """Rows for a rule: `self`, a guarded text (of which only the part kept for this is given), or any other data."""
        if not isinstance(names, str):
            return [row for name in names for row in self.source(name)]
        if names == SELF:
            return self._fresh_self()
        if names in self._suites:
            return self._suites[names]["replay"].rows
        return self._parts(names, {"replay": 1.0})["replay"].rows

    # Inside ---------------------------------------------------------------------------------------------------------

    def _has_test(self, records: Sequence[Record]) -> bool:
        """Whether the data bring a test split of their own."""
        try:
            return list(read(self.recipe.learn.data, split="test", mapping=self.recipe.learn.mapping)) != list(records)
        except BadInput:
            return False

    def _held_out(self, records: Sequence[Record]) -> dict[str, list[Record]]:
        return split(pieces(records, 2), {"evaluation": 0.1, "train": 0.9}, self.recipe.seed)

    def _packed(self, records: Sequence[Record]) -> Rows:
        learn = self.recipe.learn
        bare = self._bare(records, learn.start)
        made = rows(records, self.base.tokenizer, length=learn.length + bare)
        if not made:
            raise BadInput(f"{learn.data} has no row to learn from. Give more text, or a smaller `learn.length`.")
        return [_without_first(row) for row in made] if bare else made

    def _probe(self, source: str, records: Sequence[Record], what: str) -> Probe:
        learn = self.recipe.learn
        bare = self._bare(records, learn.start)
        made = rows(records, self.base.tokenizer, length=learn.length + bare)[:MEASURED]
        return Probe(source, [_without_first(row) for row in made] if bare else made, f"{source}, {what}")

    @cached_property
    def _suites(self) -> dict[str, dict[str, Probe]]:
        thirds = {"audit": 1 / 3, "control": 1 / 3, "replay": 1 / 3}
        return {name: self._parts(name, thirds) for name in self.recipe.keep.suites}

    def _parts(self, source: str, shares: Mapping[str, float]) -> dict[str, Probe]:
        """Parts of a text file or task, in rows that begin as the base likes it best."""
        bare = self._bare(read(source), "auto")
        length = self.recipe.learn.length + bare
        made = probes(source, self.base, shares, length=length, seed=self.recipe.seed)
        return {part: _stripped(probe) if bare else probe for part, probe in made.items()}

    def _self(self, salt: int) -> dict[str, Probe]:
        """Text sampled from the base; rows of twice the length are cut in two, so that the middle of texts is there too."""
        recipe, room = self.recipe, _room(self.base)
        cut = 2 if room is None or 2 * recipe.learn.length <= room else 1
        made = probes(
            SELF,
            self.base,
            {"audit": 0.5, "control": 0.5},
            length=cut * recipe.learn.length,
            n=max(4, recipe.keep.rows // cut),
            seed=2 * recipe.seed + salt,
        )
        return {part: replace(p, rows=_cut(p.rows, recipe.learn.length), digest="") for part, p in made.items()}

    def _fresh_self(self) -> Rows:
        """As many rows again, from another seed, without any that is guarded."""
        guarded = self.guarded.get(SELF)
        held = [] if guarded is None else [*guarded.control.rows, *guarded.audit.rows]
        seen = {tuple(row["input_ids"]) for row in held}
        drawn = self._self(1)
        return [row for probe in drawn.values() for row in probe.rows if tuple(row["input_ids"]) not in seen]

    def _bare(self, records: Sequence[Record], setting: str) -> bool:
        """Whether rows of running text go without the BOS that the rows of `data` begin with.

        Bases that were trained on one long stream never saw a BOS in the middle of a text. With it such rows look
        harder than they are, and mending that would count as learning, or make up for forgetting.
        """
        if not start(self.base.tokenizer) or not all(isinstance(record, Text) for record in records):
            return False
        return setting == "none" or (setting == "auto" and self._better_bare(records))

    def _better_bare(self, records: Sequence[Record]) -> bool:
        length = self.recipe.learn.length
        enough = 16 * TRIED * length  # characters; no tokenizer makes tokens as long as that on average
        opening = [Text(r.text[:enough]) for r in records[:TRIED] if isinstance(r, Text)]
        tried = rows(opening, self.base.tokenizer, length=length + 1)[:TRIED]
        if not (tried := [row for row in tried if len(row["input_ids"]) > 2]):
            return False
        begun = [{**row, "labels": [IGNORED, IGNORED, *row["labels"][2:]]} for row in tried]
        losses = [sequence_losses(self.base.model, r).mean() for r in (begun, [_without_first(row) for row in tried])]
        logger.info("Rows that begin with BOS: %.3f nats per token; rows that do not: %.3f.", *losses)
        return losses[1] < losses[0]


def _without_first(row: Row) -> Row:
    return {key: values[1:] for key, values in row.items()}


def _stripped(probe: Probe) -> Probe:
    return replace(probe, rows=[_without_first(row) for row in probe.rows], digest="")


def _first(probe: Probe, n: int) -> Probe:
    return probe if len(probe.rows) <= n else replace(probe, rows=probe.rows[:n], digest="")


def _cut(whole: Sequence[Row], length: int) -> Rows:
    """Each row in pieces of at most `length` tokens."""
    return [
        {key: values[at : at + length] for key, values in row.items()}
        for row in whole
        for at in range(0, len(row["input_ids"]), length)
    ]


def _room(base: Base) -> int | None:
    return getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
