"""The rows of a recipe: what is learnt, what is measured on it, and guarded texts in parts that share nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from holdfast._errors import BadInput
from holdfast.base import Base
from holdfast.data.classes import class_names, class_rows, labelled
from holdfast.data.formats import Completion, Record, Text, read
from holdfast.data.mixing import Mixture
from holdfast.data.probes import CHAT, SELF, SOUND, Probe, pieces
from holdfast.data.rows import Row, Rows
from holdfast.data.splitting import apart, split
from holdfast.evaluation.loss import SequenceLosses
from holdfast.params.heads import classifies, speaker
from holdfast.recipe.catalogue import catalogue, histories
from holdfast.recipe.classifying import Classes, classes
from holdfast.recipe.reading import Reader
from holdfast.recipe.schema import Recipe
from holdfast.recipe.tasks import classifying

logger = logging.getLogger(__name__)

PARTS = ("control", "audit")


@dataclass(frozen=True)
class Guarded:
    """A text that is to be kept: `control` steers the run, `audit` judges it once, at the end; no row is in both.

    `budget` is the allowed relative rise of its perplexity, if there is a limit. `before` holds the losses on both
    parts that the rise is counted from, where they are not those of the model that the run begins with.
    """

    name: str
    control: Probe
    audit: Probe
    budget: float | None = None
    before: Mapping[str, SequenceLosses] = field(default_factory=dict)


class Texts:
    """All rows of a run, made from its recipe and its untrained base, each when it is first asked for."""

    def __init__(self, recipe: Recipe, base: Base):
        self.recipe = recipe
        self._headed = classifies(base.model)
        spoken = speaker(base.model) if self._headed else base.model  # below a head lies what can read and write text
        self.reader = Reader(replace(base, model=spoken or base.model), recipe.learn.length, recipe.seed)

    @cached_property
    def learn(self) -> tuple[Rows, Probe]:
        """The rows to learn from, and the probe that measures it on other documents."""
        records, held, source = self.records
        name = self.recipe.learn.evaluation or self.recipe.learn.data
        if self.classes is not None:
            return self.lessons(records), Probe(name, self._labelled(held), source)
        return self.lessons(records), self.reader.probe(name, held, source, self.recipe.learn.start)

    @cached_property
    def classes(self) -> Classes | None:
        """The labels to tell apart, where that is the task; raises BadInput for records that cannot teach them."""
        return classes(self.recipe.learn, _pairs(self.records[0])) if classifying(self.recipe) else None

    @cached_property
    def reference(self) -> SequenceLosses | None:
        """What learning counts from where the base cannot be measured: the best constant guess of a label."""
        if self.classes is None or self._headed:
            return None
        return self.classes.reference(self.learn[1].rows)

    @cached_property
    def records(self) -> tuple[list[Record], list[Record], str]:
        """The records to learn from, those that measure it, and in words where the latter come from."""
        learn, source = self.recipe.learn, self.recipe.learn.data
        if (items := catalogue(self.recipe)) is not None:
            return histories(items, learn, self.reader.base.tokenizer, self.recipe.seed)
        records = self._read(source, learn.split, learn.labels)
        own = learn.evaluation or (source if self._has_test(records) else None)
        if own is None:
            return *held_out(records, 0.1, self.recipe.seed), f"{source}, a tenth of its documents"
        what = "its own test split" if own == source else "all of it"
        names = class_names(_pairs(records), learn.labels) if classifying(self.recipe) else None
        return records, pieces(self._read(own, "test", names), 1), f"{own}, {what}"

    def lessons(self, records: Sequence[Record]) -> Rows:
        """Rows to learn from, none of which shares a passage with what judges; raises BadInput where there is none."""
        opening = self.recipe.learn.start
        made = self._labelled(records) if classifying(self.recipe) else self.reader.lessons(records, opening)
        if lessons := apart(made, self.judged):
            return lessons
        source = self.recipe.learn.data
        raise BadInput(f"{source} has no row to learn from. Give more text, or a smaller `learn.length`.")

    @cached_property
    def guarded(self) -> dict[str, Guarded]:
        """The texts to be kept, by name."""
        keep = self.recipe.keep
        made = {name: self.reader.made_up(keep.rows) if name == SELF else self._suites[name] for name in keep.texts}
        halves = {n: [_first(parts[part], keep.rows // 2) for part in PARTS] for n, parts in made.items()}
        return {n: Guarded(n, control, audit, keep.budget_of(n)) for n, (control, audit) in halves.items()}

    @property
    def outline(self) -> dict[str, Guarded]:
        """The guarded texts, with blank rows where rows would have to be sampled."""
        half, length = self.recipe.keep.rows // 2, self.recipe.learn.length
        blank = Probe(SELF, [{"input_ids": [0] * length, "labels": [0] * length}] * half, "not sampled")
        made = {n: dict.fromkeys(PARTS, blank) if n == SELF else self._suites[n] for n in self.recipe.keep.texts}
        halves = {n: [_first(parts[part], half) for part in PARTS] for n, parts in made.items()}
        return {n: Guarded(n, control, audit) for n, (control, audit) in halves.items()}

    def source(self, names: str | Sequence[str]) -> Sequence[Row]:
        """Rows for a rule: text the base makes up (`self`, `self/sound`, `self/chat`), a guarded text (only the part of
        it that is meant for this), or any other data.

        Several sources take turns, so that each counts alike; the shorter ones start again.
        """
        if not isinstance(names, str):
            return Mixture([(name, self.source(name)) for name in names])
        if names in (SELF, SOUND, CHAT):
            held = self.guarded.get(SELF)
            n, without = self.recipe.keep.rows, [*held.control.rows, *held.audit.rows] if held else []
            return self.reader.written(names, n, without)
        if names in self._suites:
            return self._suites[names]["replay"].rows
        if names == self.recipe.learn.data:
            if self.classes is not None:
                raise BadInput(f"{names} has labels for whole texts, and a rule reads running text. Name such a text.")
            return self.learn[0]
        if found := apart(self.reader.parts(names, {"replay": 1.0})["replay"].rows, self.judged):
            return found
        raise BadInput(
            f"All of {names} stands in a text that is guarded, so no rule may read it. Name that text instead."
        )

    @cached_property
    def judged(self) -> Rows:
        """Rows of real text that measure the run; no rule may learn from what stands in them."""
        return [row for parts in self._suites.values() for part in PARTS for row in parts[part].rows]

    @cached_property
    def _suites(self) -> dict[str, dict[str, Probe]]:
        thirds = {"audit": 1 / 3, "control": 1 / 3, "replay": 1 / 3}
        return {name: self.reader.parts(name, thirds) for name in self.recipe.keep.suites}

    def _read(self, source: str, split: str, names: Sequence[str] | None = None) -> list[Record]:
        """Records as the task reads them; of labelled ones, `names` are the labels there may be."""
        mapping = self.recipe.learn.mapping
        if classifying(self.recipe):
            return [*labelled(source, split=split, mapping=mapping, names=names)]
        return read(source, split=split, mapping=mapping)

    def _labelled(self, records: Sequence[Record]) -> Rows:
        assert self.classes is not None
        given, names = _pairs(records), self.classes.names
        if unknown := sorted({record.completion for record in given} - set(names)):
            raise BadInput(
                f"All records of {self.recipe.learn.data} with the label {', '.join(unknown)} were held out, so it "
                "cannot be learnt. Give more of them, or an `evaluation` of their own."
            )
        return class_rows(given, names, self.reader.base.tokenizer, length=self.reader.length)

    def _has_test(self, records: Sequence[Record]) -> bool:
        """Whether the data bring a test split of their own."""
        try:
            return list(self._read(self.recipe.learn.data, "test")) != list(records)
        except BadInput:
            return False


def held_out(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """The records without a share of their documents, and that share."""
    cut = pieces(records, 2)
    dealt = split(cut, {"held": share, "rest": 1 - share}, seed)
    if len(cut) == len(records) and (lost := len(cut) - len(dealt["rest"]) - len(dealt["held"])):
        logger.warning(
            "%d of %d records are the same as records that are held back to measure the learning, and were left out. "
            "Give other data under `learn.evaluation` to learn from all of them.", lost, len(cut),
        )  # fmt: skip
    if len(cut) > len(records):  # blocks of long texts: nothing ended where they were cut
        whole = "\n\n".join(record.text for record in dealt["rest"] if isinstance(record, Text))
        dealt["rest"] = [Text(whole), *(record for record in dealt["rest"] if not isinstance(record, Text))]
    return dealt["rest"], dealt["held"]


def _pairs(records: Sequence[Record]) -> list[Completion]:
    return [record for record in records if isinstance(record, Completion)]


def _first(probe: Probe, n: int) -> Probe:
    return probe if len(probe.rows) <= n else replace(probe, rows=probe.rows[:n], digest="")
