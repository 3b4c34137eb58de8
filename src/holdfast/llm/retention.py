"""What each model along a sequence of tasks does on all of them, and what of it was lost again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from holdfast.data.formats import Completion, Record
from holdfast.data.rows import Row, padding
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.matrix import Items, Matrix, items
from holdfast.evaluation.metrics import choice_accuracy

Floats = NDArray[np.float64]
Cells = dict[tuple[int, int], Items]


@dataclass
class Exam:
    """How a task is scored: its rows, its records where all have choices, and after which training it was learnt."""

    rows: list[Row]
    records: Sequence[Record]
    learnt: int | None = None

    @property
    def by_choice(self) -> bool:
        """Whether it is scored by the share of right choices, else by the probability of its tokens."""
        return bool(self.records) and all(isinstance(r, Completion) and r.choices for r in self.records)


class Retention:
    """Scores in [0, 1] of all tasks after each training, on the same records, so that differences are paired.

    The score of a task whose records all have choices is its accuracy; of any other, the geometric mean probability
    that the model gives to a token, exp(-loss). What was lost of a task is counted from where it was just learnt, and
    of one that was not learnt from where it was first scored. Intervals are 95 % bootstrap over records.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer, self.pad_id = tokenizer, padding(tokenizer)
        self.exams: dict[str, Exam] = {}
        self._losses: Cells = {}
        self._accuracies: Cells = {}
        self._stage = 0

    def look(self, model: Any, stage: int, tasks: Collection[str] | None = None) -> None:
        """Score the tasks (None: all of them) with the model after `stage` trainings."""
        self._stage = stage
        for j, (name, exam) in enumerate(self.exams.items()):
            if tasks is None or name in tasks:
                self._losses[stage, j] = items(sequence_losses(model, exam.rows, pad_id=self.pad_id))
                if exam.by_choice:
                    self._accuracies[stage, j] = items(choice_accuracy(model, self.tokenizer, exam.records).each())

    def results(self, name: str, metrics: Collection[str]) -> dict[str, Any]:
        """What the present model does on one task, by the guide's keys.

        `forgetting_rate` is never below 0, and `knowledge_retention` never above 1; beside them stands the rate with
        its sign and interval.
        """
        exam, j = self.exams[name], list(self.exams).index(name)
        scores, _ = self._scores(name)
        lost = self.lost([name])
        told: dict[str, dict[str, Any]] = {
            "knowledge_retention": {"knowledge_retention": min(1.0, 1 - lost["mean"])},
            "task_performance": {"task_performance": float(scores[-1])},
            "forgetting_rate": {"forgetting_rate": max(0.0, lost["mean"]), "signed_forgetting_rate": lost},
        }
        figures = {key: value for metric, part in told.items() if metric in metrics for key, value in part.items()}
        measure = "accuracy" if exam.by_choice else "probability"
        return {**figures, "measure": measure, "loss": self._losses[self._stage, j].mean, "rows": len(exam.rows)}

    def lost(self, names: Collection[str]) -> dict[str, float]:
        """The share of their scores that tasks lost, below 0 where they gained: mean over tasks, with its interval."""
        rates, drawn = zip(*(self._rate(name) for name in names), strict=True)
        low, high = (float(q) for q in np.quantile(np.mean(drawn, axis=0), [0.025, 0.975]))
        return {"mean": float(np.mean(rates)), "low": low, "high": high}

    def matrices(self) -> dict[str, Any]:
        """The matrix of losses, and of accuracies of tasks that have one, with their figures, in plain values."""
        chosen = [j for j, exam in enumerate(self.exams.values()) if exam.by_choice]
        found = {"loss": self._matrix(self._losses, range(len(self.exams)), higher=False)}
        if chosen:
            found["accuracy"] = self._matrix(self._accuracies, chosen, higher=True)
        return {name: matrix.told() for name, matrix in found.items()}

    def _rate(self, name: str) -> tuple[float, Floats]:
        values, drawn = self._scores(name)
        return float(_lost(values[0], values[-1])), _lost(drawn[..., 0], drawn[..., -1])

    def _scores(self, name: str) -> tuple[Floats, Floats]:
        """A task's score where it counts from and now, float64 [2], and on resampled records [resamples, 2]."""
        exam, j = self.exams[name], list(self.exams).index(name)
        cells: Mapping[tuple[int, int], Items] = self._accuracies if exam.by_choice else self._losses
        first = exam.learnt if exam.learnt is not None else min(stage for stage, task in cells if task == j)
        matrix = Matrix((name,), {(i, 0): cells[s, j] for i, s in enumerate((first, self._stage))})
        if exam.by_choice:
            return matrix.values[:, 0], matrix.drawn[:, :, 0]
        return np.exp(-matrix.values[:, 0]), np.exp(-matrix.drawn[:, :, 0])

    def _matrix(self, cells: Cells, columns: Sequence[int], *, higher: bool) -> Matrix:
        names = list(self.exams)
        learnt = (self.exams[names[j]].learnt for j in columns)
        places = tuple(self._stage + 1 if stage is None else stage for stage in learnt)
        kept = {(stage, columns.index(j)): cell for (stage, j), cell in cells.items() if j in columns}
        return Matrix(tuple(names[j] for j in columns), kept, higher, places)


def _lost(before: Any, now: Any) -> Any:
    """1 - now / before; nothing can be lost where there was nothing."""
    return np.where(before > 0, 1 - now / np.where(before > 0, before, 1.0), 0.0)
