"""The rows of a sequence, all made by its original base before anything trains."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import Tensor

from holdfast._errors import BadInput
from holdfast.base import Base
from holdfast.data.formats import Completion, Record
from holdfast.data.rows import Row, Rows, tokens
from holdfast.evaluation.metrics import choice_accuracy, exact_match
from holdfast.evaluation.scored import Scored
from holdfast.recipe.reading import Reader
from holdfast.recipe.schema import Recipe
from holdfast.recipe.texts import PARTS, Guarded, Texts, held_out
from holdfast.sequence.schema import SequenceRecipe, Task
from holdfast.sequence.words import MADE_UP, asked, earlier

logger = logging.getLogger(__name__)

Score = Callable[..., Scored]

HELD = 0.1
"""The most of a task's training records that are held back for its control probe."""


@dataclass(frozen=True)
class Lesson:
    """One task: `rows` to learn from; `guarded` with its control rows (held back) and its audit rows (test records).

    `records` are the test records, `metric` how they are scored ("choice_accuracy", "exact_match", or "loss").
    """

    name: str
    rows: Rows
    guarded: Guarded
    records: Sequence[Record]
    metric: str

    def score(self, model: object, tokenizer: object) -> Tensor | None:
        """One figure in [0, 1] per test record; None for a task that is scored by its loss alone."""
        if self.metric == "loss":
            return None
        scored: Score = choice_accuracy
        if self.metric == "exact_match":
            answers = [r.completion for r in self.records if isinstance(r, Completion)]
            longest = max(len(tokens(tokenizer, answer)) for answer in answers)  # type: ignore[arg-type]
            stop = () if any("\n" in answer.strip() for answer in answers) else ("\n",)
            scored = partial(exact_match, max_new_tokens=longest + 2, stop=stop)
        return scored(model, tokenizer, self.records).each()


class TaskTexts(Texts):
    """The texts of one task, ready-made: what it learns, what is guarded meanwhile, and what rules may draw from."""

    def __init__(
        self, recipe: Recipe, lesson: Lesson, guarded: Mapping[str, Guarded], named: Mapping[str, Sequence[Row]]
    ):
        self.recipe = recipe
        self.learn = (lesson.rows, lesson.guarded.audit)
        self.guarded = dict(guarded)
        self._named = named

    def source(self, names: str | Sequence[str]) -> Sequence[Row]:
        """Rows for a rule, by what its `source` says."""
        return self._named[names] if isinstance(names, str) else super().source(names)


class Material:
    """All rows of a sequence: a lesson per task, the general texts to keep, and the sources of its rules."""

    def __init__(self, recipe: SequenceRecipe, base: Base):
        self.recipe = recipe
        self._general = Texts(recipe.of(0), base)
        self._base = base

    @cached_property
    def lessons(self) -> list[Lesson]:
        """The tasks, in order; no row of one that any of them is measured on is learnt."""
        made = [_lesson(task, Texts(self.recipe.of(i), self._base)) for i, task in enumerate(self.recipe.tasks)]
        judged = _judged(made)
        return [_without(lesson, judged) for lesson in made]

    @cached_property
    def general(self) -> dict[str, Guarded]:
        """The general texts to keep, by name."""
        return self._general.guarded

    @cached_property
    def named(self) -> dict[str, Sequence[Row]]:
        """The rows of each source that a rule of any task names, without those that measure a task.

        Those of earlier tasks are not among them: a sequence remembers them as it goes on.
        """
        lists = [self.recipe.rules, *(task.rules for task in self.recipe.tasks if task.rules is not None)]
        names = dict.fromkeys(name for rules in lists for name in asked(rules) if not earlier(name))
        return {name: self.unjudged(self._general.source(name)) for name in names}

    def made_up(self, base: Base, place: int) -> dict[str, Rows]:
        """What the model before a task makes up, for each source of it that asks for that (generative replay).

        Shin et al. (2017), arXiv:1705.08690; Sun et al. (2020), "LAMOL", arXiv:1909.03329.
        """
        own = self.recipe.of(place)
        names = [name for name in asked(own.rules) if name.startswith(MADE_UP)]
        reader = Reader(base, own.learn.length, self.recipe.seed + place)
        return {name: self.unjudged(reader.written(name.removeprefix(MADE_UP), own.keep.rows)) for name in names}

    def unjudged(self, rows: Sequence[Row]) -> Rows:
        """The rows without those that measure a task."""
        judged = _judged(self.lessons)
        return [row for row in rows if tuple(row["input_ids"]) not in judged]

    def ready(self) -> Material:
        """Make all rows now, and forget the base that made them."""
        _ = self.lessons, self.general, self.named
        del self._base, self._general
        return self


def _lesson(task: Task, texts: Texts) -> Lesson:
    records, held, source = texts.records
    held = _some(held, task.items)
    half = texts.recipe.keep.rows // 2
    rest, control = held_out(records, min(HELD, half / len(records)), texts.recipe.seed)
    probe = partial(texts.reader.probe, task.name, opening=texts.recipe.learn.start)
    guarded = Guarded(
        task.name,
        probe(control, f"{task.data}, held back from training", most=half),
        probe(held, source, most=max(task.items, len(held))),
    )
    return Lesson(task.name, texts.lessons(rest), guarded, held, _metric(task, held))


def _judged(lessons: Sequence[Lesson]) -> set[tuple[int, ...]]:
    """The tokens of each row that measures a task."""
    texts = [lesson.guarded for lesson in lessons]
    return {tuple(row["input_ids"]) for text in texts for part in PARTS for row in getattr(text, part).rows}


def _without(lesson: Lesson, judged: set[tuple[int, ...]]) -> Lesson:
    kept = [row for row in lesson.rows if tuple(row["input_ids"]) not in judged]
    if not kept:
        raise BadInput(f"All of {lesson.name}'s training records are test records too, of this task or another.")
    if len(kept) < len(lesson.rows):
        gone = len(lesson.rows) - len(kept)
        logger.warning("%s: %d of %d training rows are test rows of a task and are left out.", lesson.name, gone,
                       len(lesson.rows))  # fmt: skip
    return replace(lesson, rows=kept)


def _some(records: Sequence[Record], most: int) -> list[Record]:
    """At most so many records in their order, always the same ones: test files are often sorted by class."""
    chosen = sorted(random.Random(0).sample(range(len(records)), min(most, len(records))))
    return [records[i] for i in chosen]


def _metric(task: Task, records: Sequence[Record]) -> str:
    if task.metric != "auto":
        return task.metric
    tasks = [record for record in records if isinstance(record, Completion)]
    if len(tasks) < len(records):
        return "loss"
    return "choice_accuracy" if all(record.choices for record in tasks) else "exact_match"
