"""What a sequence leaves beside its runs: the matrix, a certificate over all of it, and the last model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from holdfast import checkpoint
from holdfast.data.rows import documents
from holdfast.evaluation.certificate import VERDICTS, Audited, kept_entry, learnt_entry
from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.matrix import items
from holdfast.evaluation.plain import write_json
from holdfast.evaluation.statistics import Interval, paired
from holdfast.recipe.outcome import model_card, versions
from holdfast.recipe.texts import Guarded
from holdfast.sequence.guarding import together_of
from holdfast.sequence.material import Lesson, Material
from holdfast.sequence.schema import SequenceRecipe
from holdfast.sequence.scores import Scores, matrices
from holdfast.sequence.words import TASKS

Plain = dict[str, Any]


def write_outcome(
    recipe: SequenceRecipe,
    material: Material,
    stages: Sequence[Scores],
    base: Mapping[str, str],
    folder: Path,
    compared: Mapping[str, Scores] | None = None,
    *,
    ended: bool = False,
) -> tuple[Plain, Plain]:
    """Write matrix.json after a task, and at the end certificate.json and final/; returns certificate and matrix.

    `stages` are the scores of the base and of the model after each task, `compared` those of references.
    """
    runs = [recipe.folder(place) for place in range(len(stages) - 1)]
    told = [json.loads((run / "certificate.json").read_text("utf-8")) for run in runs]
    matrix: Plain = {
        "ended": ended,
        "seed": recipe.seed,
        "metrics": {lesson.name: lesson.metric for lesson in material.lessons},
        **{name: found.told() for name, found in matrices(material.lessons, stages, recipe.seed).items()},
        "general": {name: [_rise(stages, name, i) for i in range(len(stages))] for name in material.general},
        "references": {name: _means(material.lessons, scores) for name, scores in (compared or {}).items()},
        "runs": [run.name for run in runs],
        "steps": [one["steps"] for one in told],
        "seconds": [one["seconds"] for one in told],
    }
    certificate = {
        **_certificate(recipe, material, stages),
        "base": dict(base),
        "method": recipe.method.name,
        "seed": recipe.seed,
        "steps": sum(matrix["steps"]),
        "stopped": next((one["stopped"] for one in told if one["stopped"]), None),
        "seconds": round(sum(matrix["seconds"]), 1),
        "versions": versions(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if ended:
        _final(runs[-1] / "final", folder, certificate)
        write_json(certificate, folder / "certificate.json")
    write_json(matrix, folder / "matrix.json")
    return certificate, matrix


def _certificate(recipe: SequenceRecipe, material: Material, stages: Sequence[Scores]) -> Plain:
    """Verdict, budget, kept and learnt: general texts and tasks against the base, earlier tasks since they were learnt.

    All of it was measured on audit rows and test records, which steered nothing.
    """
    first, last = stages[0], stages[-1]
    lessons = material.lessons[: len(stages) - 1]
    earlier = [replace(x.guarded, before=stages[i].before(x.name)) for i, x in enumerate(lessons, start=1)][:-1]
    texts = [replace(text, before=first.before(text.name)) for text in material.general.values()] + earlier
    kept = [_kept(text, recipe.budget_of(text.name), last.losses["audit"][text.name]) for text in texts]
    if earlier and (together := recipe.budget_of(TASKS)) is not None:
        after = together_of([replace(text, before=last.before(text.name)) for text in earlier], together)
        kept.append(_kept(together_of(earlier, together), together, after.before["audit"]))
    verdicts = [entry["verdict"] for entry in kept if entry["verdict"]]
    return {
        "verdict": min(verdicts, key=VERDICTS.index, default=None),
        "budget": {entry["text"]: entry["budget"] for entry in kept if entry["budget"] is not None},
        "kept": kept,
        "learnt": [
            learnt_entry(Audited(x.guarded.audit, first.losses["audit"][x.name]), last.losses["audit"][x.name])
            for x in lessons
        ],
    }


def _kept(text: Guarded, budget: float | None, after: SequenceLosses) -> Plain:
    whole = replace(after, documents=torch.tensor(documents(text.audit.rows)))
    return kept_entry(Audited(text.audit, text.before["audit"], budget), whole)


def _rise(stages: Sequence[Scores], name: str, stage: int) -> Plain:
    before, after = (stages[i].losses["audit"][name] for i in (0, stage))
    return _plain(paired(before, after))


def _means(lessons: Sequence[Lesson], scores: Scores) -> Plain:
    """A reference's figures task by task, and their mean, by kind."""
    found = {"loss": {lesson.name: items(scores.losses["audit"][lesson.name]) for lesson in lessons}}
    if scores.accuracy:
        found["accuracy"] = {name: items(figures) for name, figures in scores.accuracy.items()}
    return {
        kind: {
            "tasks": {name: cell.mean for name, cell in cells.items()},
            "mean": sum(cell.mean for cell in cells.values()) / len(cells),
        }
        for kind, cells in found.items()
    }


def _plain(interval: Interval) -> Plain:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "upper": interval.upper}


def _final(final: Path, folder: Path, certificate: Mapping[str, Any]) -> None:
    """The model after the last task, with a card about the whole sequence."""
    staging, place = folder / ".final", folder / "final"
    recipe = (folder / "recipe.yaml").read_text("utf-8")
    with checkpoint.kept_whole(staging, place):
        shutil.copytree(final, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(checkpoint.MANIFEST))
        card = model_card(certificate, recipe, (final / "adapter_config.json").is_file())
        (staging / "README.md").write_text(card, encoding="utf-8")
