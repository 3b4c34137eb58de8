"""What is guarded during a task: the general texts since the original base, earlier tasks since they were learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from holdfast.budget import Guard
from holdfast.data.probes import Probe
from holdfast.data.rows import Row
from holdfast.evaluation.loss import SequenceLosses
from holdfast.governor import Governor
from holdfast.recipe.checking import settings_of
from holdfast.recipe.texts import PARTS, Guarded
from holdfast.sequence.material import Material
from holdfast.sequence.schema import SequenceRecipe
from holdfast.sequence.scores import Scores
from holdfast.sequence.words import TASKS

APART = 10**9
"""By how much the numbers of documents of two tasks lie apart."""


def guarded(recipe: SequenceRecipe, material: Material, place: int, stages: Sequence[Scores]) -> dict[str, Guarded]:
    """The guarded texts of the task at `place`, each with its share of the budget; `stages` are the models so far."""
    general = {
        name: replace(text, budget=recipe.allowed(name, place), before=stages[0].before(name))
        for name, text in material.general.items()
    }
    earlier = {
        lesson.name: replace(
            lesson.guarded, budget=recipe.allowed(lesson.name, place), before=stages[i].before(lesson.name)
        )
        for i, lesson in enumerate(material.lessons[:place], start=1)
    }
    together = recipe.allowed(TASKS, place)
    pooled = {TASKS: together_of(list(earlier.values()), together)} if earlier and together is not None else {}
    return {**general, **earlier, **pooled}


def together_of(texts: Sequence[Guarded], budget: float | None) -> Guarded:
    """Several texts as one; their rows take turns, so that the first n are from all of them."""
    probes: dict[str, Probe] = {}
    before: dict[str, SequenceLosses] = {}
    for part in PARTS:
        rows = {text.name: getattr(text, part).rows for text in texts}
        order = sorted((i, place) for place, made in enumerate(rows.values()) for i in range(len(made)))
        each, whence = list(rows.values()), {"control": "held back from the training", "audit": "test records"}[part]
        mixed = [_marked(each[place][i], place) for i, place in order]
        probes[part] = Probe(TASKS, mixed, f"{whence} of {', '.join(rows)}")
        if all(part in text.before for text in texts):
            given = [text.before[part] for text in texts]
            total, tokens = ([getattr(given[place], kind)[i] for i, place in order] for kind in ("total", "tokens"))
            before[part] = SequenceLosses(torch.stack(total), torch.stack(tokens))
    return Guarded(TASKS, probes["control"], probes["audit"], budget, before)


def refuse(recipe: SequenceRecipe, material: Material) -> None:
    """Raise BadInput, before anything trains, for a budget that its probes cannot resolve in some task."""
    if recipe.keep.budget is None or not recipe.keep.govern:
        return
    confidence = recipe.keep.settings.get("confidence", settings_of(Governor)["confidence"])
    for place in range(len(recipe.tasks)):
        for text in guarded(recipe, material, place, _unknown(material)).values():
            if text.budget is not None:
                Guard(text.name, text.control.rows, text.audit.documents, text.budget).refuse(confidence)


def _marked(row: Row, place: int) -> Row:
    """The row with a number of its document that no row of another task has."""
    return {**row, "document": [mark + place * APART for mark in row["document"]]} if row.get("document") else row


def _unknown(material: Material) -> list[Scores]:
    """As many stages as there can be, with losses of nothing: what is refused follows from the rows alone."""
    texts = {**material.general, **{lesson.name: lesson.guarded for lesson in material.lessons}}

    def blank(part: str) -> Mapping[str, SequenceLosses]:
        counts = {name: len(getattr(text, part).rows) for name, text in texts.items()}
        return {n: SequenceLosses(torch.zeros(c, dtype=torch.float64), torch.ones(c).long()) for n, c in counts.items()}

    return [Scores({}, {part: dict(blank(part)) for part in PARTS})] * (len(material.lessons) + 1)
