"""The search: candidates are asked for, trained rung by rung, and told of, until trials or time are used up."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from holdfast._errors import BadInput
from holdfast.adapters.stored import CONFIG
from holdfast.recipe.loading import load
from holdfast.recipe.loading import values as plain_values
from holdfast.recipe.model import opened
from holdfast.recipe.training import steps, training_arguments
from holdfast.search import halving, storage
from holdfast.search.candidates import check_base, fitting, measures, own_parameters
from holdfast.search.ground import Ground
from holdfast.search.outcome import Found, told
from holdfast.search.proxies import measured
from holdfast.search.runner import DEFAULT, Runner
from holdfast.search.space import Narrowed, spanned
from holdfast.search.storage import Candidate, Rung
from holdfast.search.trial import OutOfTime, Progress

Third = Literal["none", "bytes", "time"]

KEPT = 2 / 3
"""How likely a candidate near the recipe keeps each of its choices."""


def search(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    trials: int = 20,
    minutes: float = 30.0,
    seed: int | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    third: Third = "none",
    space: Narrowed | None = None,
    progress: Progress | None = None,
) -> Found:
    """Look for the recipe that learns most inside its budget, among variations of one, and write what was found.

    So many `trials` are made, the untouched recipe among them as number 0, within so many `minutes`: a run that is
    going on then stops at its next step and is done again by `resume`, for which the minutes count anew. Every
    candidate is trained for a ninth of the steps, the best third of them for a third, and the best third of those for
    all (see `holdfast.search.halving`), always without governor. `seed` is the recipe's unless told; `third` adds the
    bytes that train, or the seconds of a step, to what is minimised beside forgetting and maximised gain.

    Written to `folder` (by default `search` below the recipe's output): study.db, search.json, search.md, front.png,
    and best.yaml where a recipe is inside the budget. Ctrl-C ends the search with what it has, all of it kept.

    Raises BadInput for a folder in use (or, resuming, for other settings than it was begun with), for spaces that hold
    nothing, and for a recipe that cannot be carried out itself: another candidate's failure is only noted.
    """
    if trials < 1 or not minutes > 0:
        raise BadInput(f"A search takes at least one trial and some time, not {trials} trials in {minutes:g} minutes.")
    deadline = time.monotonic() + 60 * minutes
    values = plain_values(recipe, overrides)
    place = Path(folder) if folder is not None else Path(load(values).output) / "search"
    hunt = Search(values, place, trials, third, seed, space or Narrowed(), deadline, progress or (lambda line: None))
    hunt.begin(resume)
    interrupted = False
    try:
        hunt.go_on()
    except KeyboardInterrupt:
        interrupted = True
    except Exception:
        if not hunt.found and not resume:  # nothing began: the same command works once the fault is mended
            shutil.rmtree(place, ignore_errors=True)
        raise
    return told(hunt, interrupted)


class Search:
    """A search in progress: `found` are its candidates by number, in `study` Optuna has what it learns from."""

    def __init__(
        self,
        values: Mapping[str, Any],
        folder: Path,
        trials: int,
        third: Third,
        seed: int | None,
        wanted: Narrowed,
        deadline: float,
        say: Progress,
    ):
        self.values, self.recipe = values, load(values)
        self.folder, self.trials, self.third, self.deadline, self.say = folder, trials, third, deadline, say
        self.seed, self.wanted = self.recipe.seed if seed is None else seed, wanted
        self.found: dict[int, Candidate] = {}
        check_base(self.recipe, (Path(self.recipe.base) / CONFIG).is_file())

    def begin(self, resume: bool) -> None:
        """Read base and texts, span the space, and make or read the study; nothing is written where this raises."""
        storage.check_folder(self.folder, resume=resume)
        self.say({"kind": "stage", "text": f"loading {self.recipe.base}"})
        base = opened(self.recipe)
        fits, self.refused = fitting(self.recipe, self.wanted.methods)
        if not fits:
            raise BadInput(f"None of the methods fits: {'; '.join(f'{n}: {why}' for n, why in self.refused.items())}")
        self.space = spanned(self.recipe, fits, *measures(base.model), self.wanted)
        self.ground = Ground(self.recipe, base)
        rows = len(self.ground.texts.learn[0])
        self.rungs = halving.rungs(steps(training_arguments(self.recipe, rows, self.folder), rows))
        self.say({"kind": "stage", "text": "measuring the base on all texts"})
        _ = self.ground.choosing, self.ground.judging
        self.say({"kind": "stage", "text": "weighing where to train"})
        self.proxies = measured(self.ground)
        self.study = storage.opened_study(self.folder, self._settings(), 2 + (self.third != "none"))
        storage.mend(self.study)
        self.found = storage.read(self.study)
        self.runner = Runner(self.values, self.space, self.ground, self.rungs, self.folder, self.deadline, self.say)
        if not self.study.get_trials():
            self._queue()

    def _settings(self) -> dict[str, Any]:
        """What a search that goes on has to have been begun with."""
        wanted = self.wanted.model_dump(mode="json")
        return {"recipe": self.recipe.model_dump(mode="json"), "space": wanted, "seed": self.seed, "third": self.third}

    def go_on(self) -> None:
        """Train until there is nothing more to do, or no more time to do it in."""
        if not self._whole_default():
            return
        while time.monotonic() < self.deadline:
            up = halving.promoted(
                {n: self._objectives(n) for n, c in self.found.items() if c.rungs},
                len(self.rungs),
                self.limits(),
                failed=frozenset(n for n, c in self.found.items() if c.failed),
                outside=frozenset({DEFAULT}),
                more=len(self.found) < self.trials,
            )
            if up is None and len(self.found) >= self.trials:
                return
            if not (self._climb(self.found[up[0]]) if up is not None else self._ask()):
                return

    def limits(self) -> list[float | None]:
        """The budget in nats as each rung meets it; None without one."""
        if self.ground.limit is None:
            return [None] * len(self.rungs)
        shares = [step / self.rungs[-1] for step in self.rungs]
        both = [c.rungs for c in self.found.values() if len(c.rungs) == len(self.rungs)]
        ratios = [[_ratio(rungs[i], rungs[-1]) for rungs in both] for i in range(len(shares))]
        return [halving.foretold(self.ground.limit, *pair) for pair in zip(shares, ratios, strict=True)]

    # Candidates -----------------------------------------------------------------------------------------------------

    def _queue(self) -> None:
        """The recipe itself, then random candidates in the order of their proxies, the best guess first."""
        own = own_parameters(self.space, self.recipe) or {}
        self.study.enqueue_trial(own, {"default": True})
        drawn = self._drawn(min(storage.STARTUP, self.trials - 1), own)
        for params in sorted(drawn, key=lambda params: -self.proxies.of(self.space, params)):
            self.study.enqueue_trial(params)

    def _drawn(self, n: int, own: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Random candidates, always the same ones for the same seed; two in three are near the recipe itself.

        A recipe that somebody wrote is no random one, so they keep its method and most of its other choices.
        """
        draws = optuna.create_study(sampler=RandomSampler(self.seed), directions=self.study.directions)
        random = np.random.default_rng(self.seed)
        for i in range(n):
            near = i % 3 < 2
            kept = {name: v for name, v in own.items() if near and (name == "method" or random.random() < KEPT)}
            draws.enqueue_trial(kept)
        return [self.space.suggest(draws.ask()) for _ in range(n)]

    def _whole_default(self) -> bool:
        """The untouched recipe goes up all rungs first: what everything is compared with; False where time is up."""
        while DEFAULT not in self.found or self.found[DEFAULT].whole(len(self.rungs)) is None:
            if not self._ask():  # where it was killed it waits at the end of the queue
                return False
        return True

    def _ask(self) -> bool:
        """A new candidate on the lowest rung; False where the time was up before its end."""
        self.study.sampler = storage.sampler(self.seed, len(self.found))
        trial = self.study.ask()
        default = bool(trial.user_attrs.get("default"))
        fixed = not default or own_parameters(self.space, self.recipe) is not None
        params = self.space.suggest(trial) if fixed else {}
        proxy = self.proxies.of(self.space, params) if params else None
        number = DEFAULT if default else trial.number
        candidate = self.found.get(number, Candidate(number, params, proxy))
        try:
            for _ in range(len(candidate.rungs), len(self.rungs) if default else 1):
                self.runner.run(candidate)
                self.found[number] = candidate
                storage.write(self.study, candidate)
        except (OutOfTime, KeyboardInterrupt) as stop:
            storage.again(self.study, trial.number)
            if isinstance(stop, KeyboardInterrupt):
                raise
            return False
        if candidate.failed:
            self.study.tell(trial, state=TrialState.FAIL)
            return True
        if (limit := self.limits()[0]) is not None:
            trial.set_constraint("budget", candidate.rungs[0].choosing.forgetting - limit)
        self.study.tell(trial, candidate.rungs[0].objectives(self.third))
        return True

    def _climb(self, candidate: Candidate) -> bool:
        """The next rung of a candidate; False where the time was up before its end."""
        try:
            self.runner.run(candidate)
        except OutOfTime:
            return False
        storage.write(self.study, candidate)
        return True

    def _objectives(self, number: int) -> list[halving.Objectives]:
        return [rung.objectives(self.third) for rung in self.found[number].rungs]


def _ratio(short: Rung, whole: Rung) -> float:
    return short.choosing.forgetting / whole.choosing.forgetting if whole.choosing.forgetting > 0 else math.nan
