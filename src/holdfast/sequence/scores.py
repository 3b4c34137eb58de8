"""What each model of a sequence does on its tasks and texts, measured once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast import checkpoint
from holdfast._errors import BadCheckpoint
from holdfast.base import Base
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.matrix import Matrix, items
from holdfast.sequence.material import Lesson, Material

NAME = "scores"


@dataclass(frozen=True, eq=False)
class Scores:
    """One model: `accuracy` per test record by task, and `losses` by part ("audit", "control") and text or task."""

    accuracy: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, dict[str, SequenceLosses]] = field(default_factory=dict)

    def before(self, name: str) -> dict[str, SequenceLosses]:
        """The losses on each part of a text or task, as far as they were measured."""
        return {part: found[name] for part, found in self.losses.items() if name in found}


def measured(material: Material, model: Base, stage: int | None) -> Scores:
    """The scores of the model after `stage` tasks (0: the base; None: a reference).

    On all general texts, and on the tasks so far and the next (the base and references: all). Control rows are read
    where a later model will be compared with this one: general texts at the base, a task where it was just learnt.
    """
    lessons = material.lessons if not stage else material.lessons[: stage + 1]
    general = list(material.general.values())
    controlled = [lesson.guarded for lesson in material.lessons[stage - 1 : stage]] if stage else general
    losses = partial(sequence_losses, model.model, pad_id=model.pad_id)
    scored = {lesson.name: lesson.score(model.model, model.tokenizer) for lesson in lessons}
    return Scores(
        {name: figures for name, figures in scored.items() if figures is not None},
        {
            "audit": {g.name: losses(g.audit.rows) for g in (*general, *(lesson.guarded for lesson in lessons))},
            "control": {g.name: losses(g.control.rows) for g in controlled} if stage is not None else {},
        },
    )


def kept(folder: Path, stage: str, measure: Callable[[], Scores]) -> Scores:
    """Scores from `folder` if they are there and whole, else measured and written there, whole or not at all."""
    place = folder / NAME / stage
    try:
        return read_scores(folder, stage)
    except BadCheckpoint:
        scores = measure()
        with checkpoint.kept_whole(place.with_name(f".{stage}"), place):
            checkpoint.write_state(place.with_name(f".{stage}"), NAME, _state(scores))
        return scores


def matrices(lessons: Sequence[Lesson], stages: Sequence[Scores], seed: int = 0) -> dict[str, Matrix]:
    """The matrix of losses over all tasks, and that of accuracies over those that have one, by name."""
    places = {lesson.name: i for i, lesson in enumerate(lessons, start=1)}
    right = {name: place for name, place in places.items() if lessons[place - 1].metric != "loss"}
    scored = {
        "accuracy": _matrix(right, [scores.accuracy for scores in stages], True, seed),
        "loss": _matrix(places, [scores.losses["audit"] for scores in stages], False, seed),
    }
    return {name: matrix for name, matrix in scored.items() if matrix.tasks}


def _matrix(
    places: Mapping[str, int], stages: Sequence[Mapping[str, SequenceLosses | Tensor]], higher: bool, seed: int
) -> Matrix:
    cells = {
        (stage, j): items(scored[name])
        for j, name in enumerate(places)
        for stage, scored in enumerate(stages)
        if name in scored
    }
    return Matrix(tuple(places), cells, higher, tuple(places.values()), seed=seed)


def _state(scores: Scores) -> dict[str, Any]:
    losses = {
        part: {name: [s.total, s.tokens, s.documents] for name, s in found.items()}
        for part, found in scores.losses.items()
    }
    return {"accuracy": scores.accuracy, "losses": losses}


def read_scores(folder: Path, stage: str) -> Scores:
    """Scores of a stage that were kept; raises BadCheckpoint where they are missing or not whole."""
    place = folder / NAME / stage
    checkpoint.check(place)
    state = checkpoint.read_state(place, NAME)
    losses = {
        part: {name: SequenceLosses(*given) for name, given in found.items()} for part, found in state["losses"].items()
    }
    return Scores(dict(state["accuracy"]), losses)
