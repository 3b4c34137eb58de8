"""What a search found: the best recipe inside the budget, beside the recipe as it was given, with intervals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from holdfast.evaluation.certificate import verdict
from holdfast.evaluation.statistics import Interval, paired
from holdfast.search import halving
from holdfast.search.ground import LEARNT, Figures, turned
from holdfast.search.halving import fronts, knee, order, volume
from holdfast.search.proxies import Part, agreement
from holdfast.search.storage import Candidate, Rung
from holdfast.search.writing import write_all

if TYPE_CHECKING:
    from holdfast.search.searching import Search

ENOUGH, TOP = 10, 5
"""Candidates that importance takes at least, and how many of them are the best ones that it compares with the rest."""


@dataclass(frozen=True)
class Comparison:
    """The best recipe beside the default one on rows that chose nothing, in nats per token, paired row by row.

    `gain` is how much more was learnt, `rises` how much more of each text was forgotten. `verdicts` are those of a
    certificate, for both, None without a budget. `better` is "yes" where surely (95 %) more was learnt, at no more
    forgetting than the default's or inside a budget; "inside" where that is not so but the default alone breaks its
    budget; "no" where surely less was learnt; else "undecided".
    """

    gain: Interval
    rises: Mapping[str, Interval]
    verdicts: tuple[str | None, str | None]
    better: str


@dataclass(frozen=True)
class Found:
    """A search's result: `candidates` by number (0 is the recipe as given), `front` those that no other beats.

    `best` is None where no whole run was inside the budget; `comparison` also where the default itself is best.
    `limits` are the budgets in nats, by text. `volumes` are the areas that the default alone and all whole runs
    dominate. `importance` says how much each choice decided, by objective; `guess` and `rungs` how well proxies and
    short runs foretold the order (Spearman).
    """

    folder: Path
    candidates: Mapping[int, Candidate]
    steps: list[int]
    third: str
    limits: Mapping[str, float]
    front: list[int]
    best: int | None
    comparison: Comparison | None
    volumes: tuple[float, float] | None
    importance: Mapping[str, Mapping[str, float]]
    parts: Mapping[str, Part]
    guess: Mapping[str, float] | None
    rungs: Mapping[str, float] | None
    refused: Mapping[str, str]
    interrupted: bool

    @property
    def limit(self) -> float | None:
        """The tightest budget."""
        return min(self.limits.values(), default=None)

    @property
    def whole(self) -> dict[int, Rung]:
        """The runs of all steps."""
        made = {number: candidate.whole(len(self.steps)) for number, candidate in self.candidates.items()}
        return {number: rung for number, rung in made.items() if rung is not None}


def told(search: Search, interrupted: bool) -> Found:
    """Judge what a search has done so far, and write it."""
    whole = {n: rung for n, c in search.found.items() if (rung := c.whole(len(search.rungs))) is not None}
    points = {n: rung.objectives(search.third) for n, rung in whole.items()}
    front = [n for n, place in zip(points, fronts(list(points.values())), strict=True) if place == 0]
    best = chosen({n: rung.choosing for n, rung in whole.items()}, front, search.ground.limits)
    found = Found(
        folder=search.folder,
        candidates=search.found,
        steps=search.rungs,
        third=search.third,
        limits=search.ground.limits,
        front=sorted(front, key=lambda n: points[n]),
        best=best,
        comparison=None if best in (None, 0) else _compared(search, best or 0),
        volumes=_volumes(points, search.ground.limit),
        importance=importances(search.study, search.third),
        parts=search.proxies.parts,
        guess=_guess(search),
        rungs=_foretelling(search),
        refused=search.refused,
        interrupted=interrupted,
    )
    write_all(found, search.values, search.space)
    return found


def chosen(figures: Mapping[int, Figures], front: list[int], limits: Mapping[str, float]) -> int | None:
    """The recipe with the largest gain among those whose upper bounds are all inside their budgets.

    Without a budget it is the knee of the front: beyond it a little more learning costs much more forgetting.
    """
    if not limits:
        return front[knee([(-figures[n].gain.mean, figures[n].forgetting) for n in front])] if front else None
    inside = [number for number, found in figures.items() if found.fits(limits)]
    return max(inside, key=lambda number: (figures[number].gain.mean, -number), default=None)


def _compared(search: Search, best: int) -> Comparison:
    ours, default = search.runner.losses(best)[1], search.runner.losses(0)[1]
    apart = {name: paired(default[name], ours[name]) for name in ours}
    gain = turned(apart.pop(LEARNT))
    rises = {name.removeprefix("kept/"): rise for name, rise in apart.items()}
    own, given = (search.ground.figures(losses, search.ground.judging) for losses in (ours, default))
    verdicts = (_verdict(search, own), _verdict(search, given))
    return Comparison(gain, rises, verdicts, beats(gain, own, given, search.ground.limits))


def beats(gain: Interval, best: Figures, default: Figures, limits: Mapping[str, float]) -> str:
    """Whether the best recipe beats the default, on rows that chose neither; see `Comparison`."""
    inside, was_inside = (all(f.rises[n].mean <= limit for n, limit in limits.items()) for f in (best, default))
    if gain.low > 0 and (best.forgetting <= default.forgetting or (limits and inside)):
        return "yes"
    if limits and inside and not was_inside:
        return "inside"
    return "no" if gain.high < 0 else "undecided"


def _verdict(search: Search, figures: Figures) -> str | None:
    order = ("broken", "undecided", "holds")
    budgets = {name: search.recipe.keep.budget_of(name) for name in figures.rises}
    found = [verdict(rise, budgets[name])[0] for name, rise in figures.rises.items()]
    return min((word for word in found if word), key=order.index, default=None)


def _volumes(points: Mapping[int, halving.Objectives], limit: float | None) -> tuple[float, float] | None:
    """The areas up to no gain and the budget (without one, a tenth more forgetting than the default's)."""
    if 0 not in points:
        return None
    reference = (0.0, 1.1 * max(points[0][1], 1e-6) if limit is None else limit)
    return volume([points[0]], reference), volume(list(points.values()), reference)


def importances(study: optuna.Study, third: str) -> dict[str, dict[str, float]]:
    """How much each choice decides whether a candidate is among the best on the lowest rung, by objective.

    Shares that sum to 1, by conditional PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255), which can say it of choices
    that only some candidates have. `both` is the front itself. Empty for too few candidates.
    """
    done = [trial for trial in study.get_trials(states=(TrialState.COMPLETE,)) if trial.params]
    if len(done) < ENOUGH:
        return {}
    names = ["gain", "forgetting", *([third] if third != "none" else [])]
    sides = {name: (lambda trial, i=i: trial.values[i]) for i, name in enumerate(names)}
    judge = PedAnovaImportanceEvaluator(target_quantile=max(0.1, TOP / len(done)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that low values are taken for good, and they are
        found = {name: get_param_importances(study, evaluator=judge, target=side) for name, side in sides.items()}
        found["both"] = get_param_importances(study, evaluator=judge)
    return {name: {choice: round(float(part), 4) for choice, part in shares.items()} for name, shares in found.items()}


def _guess(search: Search) -> dict[str, float] | None:
    """How well the proxies' order agrees with the order on the lowest rung, over candidates that differ."""
    guessed = {n: c.proxy for n, c in search.found.items() if c.proxy is not None and c.rungs}
    ranked = order([search.found[n].rungs[0].objectives(search.third) for n in guessed], search.limits()[0])
    places = {list(guessed)[i]: place for place, i in enumerate(ranked)}
    return agreement([guess for guess in guessed.values() if guess is not None], [places[n] for n in guessed])


def _foretelling(search: Search) -> dict[str, float] | None:
    """How well the gains of the shortest runs agree with those of the longest run that each candidate made."""
    both = [c.rungs for c in search.found.values() if len(c.rungs) == len(search.rungs)]
    if len(search.rungs) < 2:
        return None
    last = sorted(range(len(both)), key=lambda i: -both[i][-1].choosing.gain.mean)
    return agreement([rungs[0].choosing.gain.mean for rungs in both], [last.index(i) for i in range(len(both))])
