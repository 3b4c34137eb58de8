"""The study on disk: Optuna's SQLite file, with what each candidate did on each rung in the study's attributes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from holdfast._errors import BadInput
from holdfast.evaluation.statistics import Interval
from holdfast.search.ground import Figures
from holdfast.search.halving import Objectives

FILE = "study.db"
STARTUP = 8
"""Candidates that are drawn at random, and ordered by proxy, before the sampler has anything to go by."""


@dataclass(frozen=True)
class Rung:
    """What a candidate did in one run; `choosing` chooses, `judging` only whole runs have; losses in nats per token."""

    steps: int
    seconds: float
    bytes: int
    choosing: Figures
    judging: Figures | None = None

    def objectives(self, third: str) -> Objectives:
        """What is minimised."""
        more = {"none": (), "bytes": (float(self.bytes),), "time": (self.seconds / self.steps,)}[third]
        return (-self.choosing.gain.mean, self.choosing.forgetting, *more)


@dataclass
class Candidate:
    """A recipe in the search: its parameters (none where the space does not hold it), guess, runs, why it failed."""

    number: int
    params: dict[str, Any]
    proxy: float | None = None
    rungs: list[Rung] = field(default_factory=list)
    failed: str | None = None

    def whole(self, count: int) -> Rung | None:
        """Its run on the last of so many rungs."""
        return self.rungs[-1] if len(self.rungs) == count else None


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raise BadInput for a folder that holds something (without `resume`), or no study to go on with (with it)."""
    if resume and not (folder / FILE).is_file():
        raise BadInput(f"There is no search in {folder} to go on with. Start it without --resume.")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is already there. Go on with its search by --resume, or choose another --folder.")


def opened_study(folder: Path, settings: Mapping[str, Any], objectives: int) -> optuna.Study:
    """A new study in a folder, or the one that is there; all objectives are minimised.

    Raises BadInput where a study is there that was begun with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / FILE).absolute()}",
        study_name="search",
        directions=["minimize"] * objectives,
        load_if_exists=True,
    )
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", dict(settings))
    elif changed := [key for key, value in settings.items() if before.get(key) != value]:
        raise BadInput(
            f"The search in {folder} was begun with another {', '.join(changed)}. Go on with the recipe, space and "
            "settings that it was begun with, or start a new one in another --folder."
        )
    return study


def sampler(seed: int, number: int) -> TPESampler:
    """The sampler of one candidate: seeded by its number, so that a resumed search draws what it would have drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        seeded = (seed * 100_003 + number) % 2**32
        return TPESampler(multivariate=True, group=True, n_startup_trials=STARTUP, seed=seeded)


def write(study: optuna.Study, candidate: Candidate) -> None:
    """Keep what a candidate has done so far."""
    plain = {
        "proxy": candidate.proxy,
        "failed": candidate.failed,
        "params": candidate.params,
        "rungs": [_rung(rung) for rung in candidate.rungs],
    }
    study.set_user_attr(f"candidate {candidate.number}", plain)


def read(study: optuna.Study) -> dict[int, Candidate]:
    """The candidates of a study that have done something, by number."""
    found = {}
    for key, told in study.user_attrs.items():
        word, _, number = key.partition(" ")
        if word == "candidate":
            rungs = [_read_rung(rung) for rung in told["rungs"]]
            found[int(number)] = Candidate(int(number), told["params"], told["proxy"], rungs, told["failed"])
    return dict(sorted(found.items()))


def mend(study: optuna.Study) -> list[int]:
    """Mark what was running when the search was killed as failed, and queue it again; returns the numbers."""
    killed = [trial for trial in study.get_trials() if trial.state is TrialState.RUNNING]
    for trial in killed:
        again(study, trial.number)
    return [trial.number for trial in killed]


def again(study: optuna.Study, number: int) -> None:
    """Mark an unfinished trial as failed and queue its parameters again, with what is known of it."""
    trial = study.get_trials()[number]
    study.tell(number, state=TrialState.FAIL)
    study.enqueue_trial(trial.params or trial.system_attrs.get("fixed_params", {}), dict(trial.user_attrs))


def plain(figures: Figures | None) -> dict[str, Any] | None:
    """Figures as plain values."""
    if figures is None:
        return None
    rises = {name: _interval(rise) for name, rise in figures.rises.items()}
    return {"gain": _interval(figures.gain), "rises": rises, "limits": dict(figures.limits)}


def _rung(rung: Rung) -> dict[str, Any]:
    costs = {"steps": rung.steps, "seconds": round(rung.seconds, 3), "bytes": rung.bytes}
    return {**costs, "choosing": plain(rung.choosing), "judging": plain(rung.judging)}


def _read_rung(told: Mapping[str, Any]) -> Rung:
    choosing, judging = _figures(told["choosing"]), told["judging"] and _figures(told["judging"])
    return Rung(told["steps"], told["seconds"], told["bytes"], choosing, judging)


def _figures(told: Mapping[str, Any]) -> Figures:
    rises = {name: Interval(**rise) for name, rise in told["rises"].items()}
    return Figures(Interval(**told["gain"]), rises, told["limits"])


def _interval(interval: Interval) -> dict[str, Any]:
    return dict(vars(interval))
