"""A sequence carried out: task after task, each from the model before, all of them scored after each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from holdfast import checkpoint
from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.data.rows import Rows
from holdfast.evaluation.report import FORMATS, write_sequence_report
from holdfast.recipe.callbacks import Progress
from holdfast.recipe.loading import dump, parse, written_out
from holdfast.recipe.model import opened, placed
from holdfast.recipe.running import Result
from holdfast.recipe.running import run as run_recipe
from holdfast.recipe.schema import Recipe
from holdfast.remedies.buffer import Reservoir
from holdfast.sequence.guarding import guarded, refuse
from holdfast.sequence.material import Material, TaskTexts
from holdfast.sequence.outcome import write_outcome
from holdfast.sequence.references import references
from holdfast.sequence.schema import SequenceRecipe, load
from holdfast.sequence.scores import Scores, kept, measured, read_scores
from holdfast.sequence.words import BEFORE, MADE_UP, TASKS, asked

MERGED = "merged"
"""Folder, in a task's run folder, of its adapter merged into its base."""


APART = 1_000_003
"""Between the seeds of two tasks: with one seed a new adapter would begin where the first did, along what it learnt."""


@dataclass(frozen=True)
class Outcome:
    """What a sequence left in `folder`; `certificate` and `matrix` are None where it was interrupted."""

    folder: Path
    certificate: Mapping[str, Any] | None = None
    matrix: Mapping[str, Any] | None = None

    @property
    def verdict(self) -> str | None:
        """ "holds", "undecided" or "broken"; None without a budget or a certificate."""
        return None if self.certificate is None else self.certificate["verdict"]


def run(recipe: SequenceRecipe, *, resume: bool = False, progress: Progress | None = None) -> Outcome:
    """Learn the tasks of a sequence in order, and write its folder; `resume` goes on wherever it was stopped.

    After each task all tasks so far, the next one and the general texts are scored. What was done is never done
    again: a task that ended keeps its run folder, one that was stopped goes on from its newest complete checkpoint or,
    without one, starts again. Raises what a run raises; TrainingStopped by a task leaves the sequence resumable, which
    then goes on with that task's last admitted weights.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise Unsupported("A sequence is carried out by one process; give each of its tasks to several by themselves.")
    say, folder = progress or (lambda line: None), Path(recipe.output)
    with _prepared(recipe, folder, resume):
        say({"kind": "stage", "text": f"loading {recipe.base}"})
        base = placed(recipe.of(0), load_base(recipe.base))
        say({"kind": "stage", "text": "preparing the texts of all tasks"})
        material = Material(recipe, base).ready()
        refuse(recipe, material)
        stages = [kept(folder, "0", partial(measured, material, base, 0))]
        name, digest = base.name, base.digest
        del base
        course = _Course(recipe, material, folder, say)
        for place in range(len(recipe.tasks)):
            if not course.learn(place, stages):
                return Outcome(folder)
            write_outcome(recipe, material, stages, {"name": name, "digest": digest}, folder)
        compared = references(recipe, material, course.carry_out, folder)
        if compared is None:
            return Outcome(folder)
        certificate, matrix = write_outcome(
            recipe, material, stages, {"name": name, "digest": digest}, folder, compared, ended=True
        )
        for ending in FORMATS:
            write_sequence_report([folder], folder / f"report{ending}", title=f"{name}: {folder.name}")
        return Outcome(folder, certificate, matrix)


def texts_of(folder: Path) -> TaskTexts:
    """The texts of one task of a sequence that has been carried out, by its run folder, as its run had them.

    Raises BadInput where the folder is no task's, or where the models before it were not scored.
    """
    recipe = load(folder.parent / "recipe.yaml")
    names = [Path(recipe.folder(place)).name for place in range(len(recipe.tasks))]
    if folder.name not in names:
        raise BadInput(f"{folder} is no task of the sequence in {folder.parent}: those are {', '.join(names)}.")
    place = names.index(folder.name)
    material = Material(recipe, placed(recipe.of(0), load_base(recipe.base))).ready()
    stages = [read_scores(folder.parent, str(stage)) for stage in range(place + 1)]
    texts = guarded(recipe, material, place, stages)
    return TaskTexts(recipe.of(place), material.lessons[place], texts, material.named)


class _Course:
    """Carries the runs of a sequence out, one after the other."""

    def __init__(self, recipe: SequenceRecipe, material: Material, folder: Path, say: Progress):
        self.recipe, self.material, self.say = recipe, material, say
        self.reservoir = Reservoir(recipe.reservoir, recipe.seed, folder=folder / "reservoir")
        self._start = recipe.base

    def learn(self, place: int, stages: list[Scores]) -> bool:
        """Learn one task and score what came of it; False where that was interrupted."""
        recipe, material, lesson = self.recipe, self.material, self.material.lessons[place]
        own, folder = recipe.of(place), recipe.folder(place)
        former = material.lessons[place - 1].rows if place else []
        named = {**material.named, TASKS: self.reservoir, BEFORE: former, **self._made_up(place)}
        texts = TaskTexts(own, lesson, guarded(recipe, material, place, stages), named)
        begun = own.model_copy(update={"base": self._start, "seed": own.seed + APART * place})
        if not self.carry_out(begun, texts, lesson.name):
            return False
        self.reservoir.add(lesson.name, lesson.rows)
        self.say({"kind": "stage", "text": f"{lesson.name}: scoring all tasks so far"})
        self._start = self._next(folder)
        measure = partial(self._scored, place + 1)
        stages.append(kept(folder.parent, str(place + 1), measure))
        return True

    def carry_out(self, recipe: Recipe, texts: TaskTexts, name: str) -> bool:
        """One run, from wherever it stands; False where it was interrupted."""
        folder = Path(recipe.output)
        if _ended(folder):
            return True
        resume = checkpoint.newest(folder) is not None if folder.is_dir() else False
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)  # it was stopped before its first checkpoint
        result: Result = run_recipe(recipe, resume=resume, texts=texts, progress=_under(name, self.say))
        return result.certificate is not None

    def _made_up(self, place: int) -> dict[str, Rows]:
        wanted = any(source.startswith(MADE_UP) for source in asked(self.recipe.of(place).rules))
        if not wanted or _ended(self.recipe.folder(place)):
            return {}
        self.say({"kind": "stage", "text": f"{self.recipe.tasks[place].name}: the model before it makes text up"})
        return self.material.made_up(opened(self.recipe.of(0), self._start), place)

    def _scored(self, stage: int) -> Scores:
        """Of the model that the next task starts from: an adapter that is merged need not be computed apart."""
        return measured(self.material, opened(self.recipe.of(0), self._start), stage)

    def _next(self, folder: Path) -> str:
        """Where the next task starts from."""
        if self.recipe.adapter == "continue" or not (folder / "final/adapter_config.json").is_file():
            return str(folder / "final")
        _merge(folder / "final", folder / MERGED)
        return str(folder / MERGED)


def _ended(folder: Path) -> bool:
    return (folder / "certificate.json").is_file()


def _merge(final: Path, folder: Path) -> None:
    """Write the adapter in `final` merged into its base, once, whole or not at all."""
    if folder.is_dir():
        return
    adapted = load_adapted(final)
    model: Any = adapted.model
    staging = folder.with_name(f".{folder.name}")
    with checkpoint.kept_whole(staging, folder):
        model.merge_and_unload().save_pretrained(staging)
        adapted.tokenizer.save_pretrained(staging)


def _under(name: str, say: Progress) -> Progress:
    """What a run tells, under the name of its task."""

    def told(line: Mapping[str, Any]) -> None:
        say({**line, "text": f"{name}: {line['text']}"} if line["kind"] == "stage" else line)

    return told


@contextmanager
def _prepared(recipe: SequenceRecipe, folder: Path, resume: bool) -> Iterator[None]:
    """Sees to the sequence's folder and the resolved recipe in it; takes it away where nothing could begin."""
    check_folder(recipe, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        (folder / "recipe.yaml").write_text(dump(written_out(recipe.model_dump(mode="json"))), encoding="utf-8")
    try:
        yield
    except (BadInput, Unsupported, KeyboardInterrupt):
        if not resume and not (folder / "scores/0").is_dir():
            shutil.rmtree(folder, ignore_errors=True)  # nothing began
        raise


def check_folder(recipe: SequenceRecipe, *, resume: bool = False) -> None:
    """Raise BadInput where a sequence would stop before it begins: its folder is taken, or there is none to resume."""
    folder = Path(recipe.output)
    if resume:
        _check_resumable(folder / "recipe.yaml", written_out(recipe.model_dump(mode="json")))
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(
            f"{folder} is already there. Go on with that sequence by --resume, choose another folder "
            "(output=runs/name), or take that one away."
        )


def _check_resumable(told: Path, now: Mapping[str, Any]) -> None:
    if not told.is_file():
        raise BadInput(f"There is no sequence in {told.parent} to go on with: it has no recipe.yaml. Start it anew.")
    matrix = told.parent / "matrix.json"
    if matrix.is_file() and json.loads(matrix.read_text("utf-8")).get("ended"):
        raise BadInput(f"The sequence in {told.parent} came to its end. There is nothing to resume.")
    then = parse(told.read_text("utf-8"), str(told))
    if changed := [key for key in now if json.loads(json.dumps(now[key])) != then.get(key)]:
        raise BadInput(
            f"The sequence in {told.parent} was begun with another {', '.join(f'`{key}`' for key in changed)}. Go on "
            f"with what it was begun with, holdfast train {told} --resume, or start a new one in another folder."
        )
