"""The rows of a recipe: what is learnt, what is measured on it, and guarded texts in parts that share nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice

from holdfast._errors import BadInput
from holdfast.base import Base
from holdfast.data.formats import Record, Text, read
from holdfast.data.probes import SELF, Probe, pieces
from holdfast.data.rows import Rows
from holdfast.data.splitting import split
from holdfast.recipe.reading import Reader
from holdfast.recipe.schema import Recipe

PARTS = ("control", "audit")


@dataclass(frozen=True)
class Guarded:
    """A text that is to be kept: `control` steers the run, `audit` judges it once, at the end; no row is in both."""

    name: str
    control: Probe
    audit: Probe


class Texts:
    """All rows of a run, made from its recipe and its untrained base, each when it is first asked for."""

    def __init__(self, recipe: Recipe, base: Base):
        self.recipe = recipe
        self._reader = Reader(base, recipe.learn.length, recipe.seed)

    @cached_property
    def learn(self) -> tuple[Rows, Probe]:
        """The rows to learn from, and the probe that measures it on other documents."""
        learn, source, reader = self.recipe.learn, self.recipe.learn.data, self._reader
        records = read(source, split=learn.split, mapping=learn.mapping)
        own = learn.evaluation or (source if self._has_test(records) else None)
        if own is None:
            dealt = self._held_out(records)
            records, held, what = dealt["train"], dealt["evaluation"], "a tenth of its documents"
        else:
            held = read(own, split="test", mapping=learn.mapping)
            what = "its own test split" if own == source else "all of it"
        lessons = reader.lessons(records, learn.start)
        if not lessons:
            raise BadInput(f"{source} has no row to learn from. Give more text, or a smaller `learn.length`.")
        return lessons, reader.probe(own or source, held, f"{own or source}, {what}", learn.start)

    @cached_property
    def guarded(self) -> dict[str, Guarded]:
        """The texts to be kept, by name."""
        keep = self.recipe.keep
        made = {name: self._reader.made_up(keep.rows) if name == SELF else self._suites[name] for name in keep.texts}
        return {n: Guarded(n, *(_first(parts[p], keep.rows // 2) for p in PARTS)) for n, parts in made.items()}

    @property
    def outline(self) -> dict[str, Guarded]:
        """The guarded texts, with blank rows where rows would have to be sampled."""
        half, length = self.recipe.keep.rows // 2, self.recipe.learn.length
        blank = Probe(SELF, [{"input_ids": [0] * length, "labels": [0] * length}] * half, "not sampled")
        return {
            name: Guarded(name, *(blank if name == SELF else _first(self._suites[name][p], half) for p in PARTS))
            for name in self.recipe.keep.texts
        }

    def source(self, names: str | Sequence[str]) -> Rows:
        """Rows for a rule: `self`, a guarded text (only the part of it that is meant for this), or any other data.

        Several sources take turns, so that each counts alike; the shorter ones start again.
        """
        if not isinstance(names, str):
            sources = [self.source(name) for name in names]
            longest = max(map(len, sources), default=0)
            turns = zip(*(islice(cycle(rows), longest) for rows in sources), strict=True)
            return [row for turn in turns for row in turn]
        if names == SELF:
            held = self.guarded.get(SELF)
            return self._reader.more_made_up(
                self.recipe.keep.rows, [*held.control.rows, *held.audit.rows] if held else []
            )
        if names in self._suites:
            return self._suites[names]["replay"].rows
        return self._reader.parts(names, {"replay": 1.0})["replay"].rows

    @cached_property
    def _suites(self) -> dict[str, dict[str, Probe]]:
        thirds = {"audit": 1 / 3, "control": 1 / 3, "replay": 1 / 3}
        return {name: self._reader.parts(name, thirds) for name in self.recipe.keep.suites}

    def _has_test(self, records: Sequence[Record]) -> bool:
        """Whether the data bring a test split of their own."""
        try:
            return list(read(self.recipe.learn.data, split="test", mapping=self.recipe.learn.mapping)) != list(records)
        except BadInput:
            return False

    def _held_out(self, records: Sequence[Record]) -> dict[str, list[Record]]:
        cut = pieces(records, 2)
        dealt = split(cut, {"evaluation": 0.1, "train": 0.9}, self.recipe.seed)
        if len(cut) > len(records):  # blocks of long texts: nothing ended where they were cut
            whole = "\n\n".join(record.text for record in dealt["train"] if isinstance(record, Text))
            dealt["train"] = [Text(whole), *(record for record in dealt["train"] if not isinstance(record, Text))]
        return dealt


def _first(probe: Probe, n: int) -> Probe:
    return probe if len(probe.rows) <= n else replace(probe, rows=probe.rows[:n], digest="")
