"""What there is to see of a run's folder at this moment, in the blocks that reports are made of."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from holdfast._errors import BadInput
from holdfast.evaluation.report import RunRecord, read_run
from holdfast.evaluation.report.content import Cell, Note, Section, Table, Verdicts
from holdfast.evaluation.report.headline import marked, verdict_sentence
from holdfast.evaluation.report.records import FILES
from holdfast.watching.figures import figures, pace

_QUIET = 60.0
"""Seconds without a line after which it is worth saying so."""


@dataclass(frozen=True)
class View:
    """A moment of a run; `said` is all of it in one line."""

    title: str
    state: Literal["waiting", "running", "ended"]
    said: str
    sections: Sequence[Section] = ()


def view(folder: Path) -> View:
    """What a run, or a sequence of runs, shows now; raises BadInput where the folder is something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        said = f"There is nothing at {folder} yet: waiting for a run to begin there."
        return View(folder.name, "waiting", said, [Section("", [Note(said)])])
    recipe = _recipe(folder)
    if "tasks" in recipe:
        return _sequence(folder, recipe)
    if not any((folder / name).is_file() for name in FILES):
        raise BadInput(f"{folder} is no run: it holds none of {', '.join(FILES)}.{_inside(folder)}")
    return _run(folder, recipe)


def _recipe(folder: Path) -> Mapping[str, Any]:
    """The recipe as far as it can be read: the run may be writing it."""
    try:
        found = yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _inside(folder: Path) -> str:
    """The runs that a folder holds, for those who meant one of them."""
    names = sorted(p.name for p in folder.iterdir() if (p / "recipe.yaml").is_file()) if folder.is_dir() else []
    return f" It holds runs: watch one of {', '.join(names)}." if names else ""


def _run(folder: Path, recipe: Mapping[str, Any]) -> View:
    run = read_run(folder)
    if run.certificate is not None:
        said = f"{run.name} {verdict_sentence(run)}"
        ended = Section("", [Verdicts([(0, run.name, verdict_sentence(run))])])
        return View(run.name, "ended", said, [ended, *figures(run, recipe)])
    quiet = _silence(folder)
    parts = [Section("", [Note(quiet, quiet=False)])] if quiet else []
    return View(run.name, "running", f"{run.name}: {pace(run, recipe).said}", [*parts, *figures(run, recipe)])


def _silence(folder: Path) -> str:
    """A sentence where nothing was written for long: the run may have been interrupted."""
    newest = max((p.stat().st_mtime for p in folder.iterdir()), default=0.0)
    for_seconds = time.time() - newest
    if for_seconds < _QUIET:
        return ""
    return f"Nothing was written for {for_seconds / 60:.0f} min: it may be measuring, or have been interrupted."


def _sequence(folder: Path, recipe: Mapping[str, Any]) -> View:
    """The task that is learnt now, below what became of those before it."""
    names = [str(task.get("name")) for task in recipe["tasks"] if isinstance(task, Mapping)]
    runs = {place: read_run(found) for place, found in _tasks(folder).items()}
    now = max(runs, default=0)
    ended = _ended(folder)
    progress = Section(
        "", [Table(["task", "state", "certificate"], [_task(i, n, runs) for i, n in enumerate(names, 1)])]
    )
    if not now:
        said = f"{folder.name}: preparing {len(names)} tasks"
        return View(folder.name, "running", said, [progress])
    inner = _run(runs[now].folder, _recipe(runs[now].folder))
    said = f"{folder.name}, task {now} of {len(names)}: {inner.said}"
    return View(folder.name, "ended" if ended else "running", said, [progress, *inner.sections])


def _tasks(folder: Path) -> dict[int, Path]:
    """The folders of the tasks that have begun, by number."""
    found = ((re.match(r"(\d+)-", p.name), p) for p in folder.iterdir() if (p / "recipe.yaml").is_file())
    return {int(number[1]): place for number, place in found if number}


def _ended(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "matrix.json").read_text("utf-8")).get("ended"))
    except (OSError, ValueError):
        return False


def _task(place: int, name: str, runs: Mapping[int, RunRecord]) -> list[Cell]:
    run = runs.get(place)
    if run is None:
        return [Cell(name), Cell("waits"), Cell(marked(""))]
    state = "is being learnt" if run.certificate is None else "learnt"
    return [Cell(name), Cell(state), Cell(marked(run.verdict or ""), tone=run.verdict)]
