"""What a sequence is compared with on request: all tasks learnt together, and each of them alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

from holdfast.data.rows import Rows
from holdfast.recipe.model import opened
from holdfast.recipe.schema import Recipe
from holdfast.recipe.training import steps, training_arguments
from holdfast.sequence.material import Lesson, Material, TaskTexts
from holdfast.sequence.schema import SequenceRecipe
from holdfast.sequence.scores import Scores, kept, measured

CarryOut = Callable[[Recipe, TaskTexts, str], bool]
"""Makes one run, from wherever it stands; False where it was interrupted."""


def references(
    recipe: SequenceRecipe, material: Material, carry_out: CarryOut, folder: Path
) -> dict[str, Scores] | None:
    """The scores of the references that the recipe asks for, by name; None where one was interrupted.

    `joint` learns the rows of all tasks, shuffled, in as many steps as the tasks have together. `single` learns each
    task alone from the base; its scores of a task are those of the model that learnt it.
    """
    counts = [_steps(recipe, place, lesson.rows) for place, lesson in enumerate(material.lessons)]
    found: dict[str, Scores] = {}
    if "joint" in recipe.references:
        scores = _one(recipe, material, None, sum(counts), carry_out, folder)
        if scores is None:
            return None
        found["joint"] = scores
    if "single" in recipe.references:
        each = {}
        for place, lesson in enumerate(material.lessons):
            scores = _one(recipe, material, place, counts[place], carry_out, folder)
            if scores is None:
                return None
            each[lesson.name] = scores
        found["single"] = _picked(each)
    return found


def _one(
    recipe: SequenceRecipe, material: Material, place: int | None, count: int, carry_out: CarryOut, folder: Path
) -> Scores | None:
    own = recipe.reference(place, count)
    lesson = _together(material.lessons) if place is None else material.lessons[place]
    guarded = {name: replace(text, budget=None) for name, text in material.general.items()}
    name = Path(own.output).name
    if not carry_out(own, TaskTexts(own, lesson, guarded, material.named), name):
        return None
    final = Path(own.output) / "final"
    return kept(folder, name, lambda: measured(material, opened(own, final), None))


def _together(lessons: list[Lesson]) -> Lesson:
    """All tasks as one; it is watched on the test records of the first."""
    rows: Rows = list(chain.from_iterable(lesson.rows for lesson in lessons))
    return replace(lessons[0], name="joint", rows=rows)


def _steps(recipe: SequenceRecipe, place: int, rows: Rows) -> int:
    own = recipe.of(place)
    return steps(training_arguments(own, len(rows), Path(own.output)), len(rows))


def _picked(each: dict[str, Scores]) -> Scores:
    """Of every task the scores of the model that learnt it alone."""
    accuracy = {name: scores.accuracy[name] for name, scores in each.items() if name in scores.accuracy}
    losses = {name: scores.losses["audit"][name] for name, scores in each.items()}
    return Scores(accuracy, {"audit": losses})
