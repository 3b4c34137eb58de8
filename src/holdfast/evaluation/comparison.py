"""Base and tuned model on suites: scores of each, what changed, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from holdfast.base import Base
from holdfast.data.formats import Completion, Record, Text
from holdfast.evaluation.balance import GUIDES, Balance
from holdfast.evaluation.change import Change, change, guessed, holm, judged
from holdfast.evaluation.drift import Behaviour, Drift, behaviour, output_drift, style_drift
from holdfast.evaluation.metrics.registry import BATCH_TOKENS
from holdfast.evaluation.scored import Scored, same_examples
from holdfast.evaluation.statistics import Interval
from holdfast.evaluation.suites import Suite, unguarded

PROMPTS, OPENING = 60, 60
"""Open prompts of a kind that are answered, and characters of a text that make one."""

WORST = 5
"""Examples of a suite that are shown: those whose figure fell most."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Baseline:
    """What a base did on suites, how much measuring it again differs, and what it answered to open prompts.

    `fixed` prompts are those of suites of style, `new` ones those of suites that are learnt.
    """

    name: str
    scores: Mapping[str, Scored]
    noise: Mapping[str, float]
    fixed: Behaviour | None = None
    new: Behaviour | None = None


@dataclass(frozen=True)
class Comparison:
    """A tuned model beside its base; `changes` and `verdicts` by suite, `drift` where open prompts were asked."""

    base: str
    model: str
    suites: tuple[Suite, ...]
    before: Mapping[str, Scored]
    after: Mapping[str, Scored]
    changes: Mapping[str, Change]
    verdicts: Mapping[str, str | None]
    output: Mapping[str, Interval] = field(default_factory=dict)
    style: Mapping[str, Drift] = field(default_factory=dict)
    balance: Balance = GUIDES

    @property
    def scores(self) -> dict[str, Any]:
        """Rates and scores of `Balance` over guarded (reference) and learnt (domain) suites."""
        pairs = {suite.name: self._pair(suite) for suite in self.suites}
        parts = ({n: pairs[n] for n in self._of(role)} for role in ("guarded", "learnt"))
        weights = {suite.name: suite.settings.weight for suite in self.suites}
        return replace(self.balance, weights=weights).scores(*parts)

    def _of(self, role: str) -> list[str]:
        """The suites of a role whose figures are better or worse."""
        return [s.name for s in self.suites if s.settings.role == role and self.after[s.name].higher is not None]

    def _pair(self, suite: Suite) -> tuple[float, float]:
        return as_score(self.before[suite.name]), as_score(self.after[suite.name])

    def told(self) -> dict[str, Any]:
        """The comparison in plain values, for a file."""
        scored = [name for name, verdict in self.verdicts.items() if verdict is not None]
        corrected = dict(zip(scored, holm([self.changes[name].p for name in scored]), strict=True))
        return {
            "base": self.base,
            "model": self.model,
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "suites": [self._told(suite, corrected.get(suite.name)) for suite in self.suites],
            "unguarded": unguarded([suite for suite in self.suites if suite.settings.role == "guarded"]),
            "drift": {
                "output": {name: _interval(found) for name, found in self.output.items()} or None,
                "style": {n: {**_interval(d.divergence), "noise": d.noise} for n, d in self.style.items()} or None,
            },
            "scores": self.scores,
        }

    def _told(self, suite: Suite, p_holm: float | None) -> dict[str, Any]:
        settings, found = suite.settings, self.changes[suite.name]
        before, after = self.before[suite.name], self.after[suite.name]
        verdict = self.verdicts[suite.name]
        return {
            "suite": suite.name,
            "about": settings.about,
            "dimension": settings.dimension,
            "language": settings.language,
            "role": settings.role,
            "metric": suite.metric[0] if settings.kind == "records" else f"lm_eval: {settings.task}",
            "unit": before.unit,
            "higher": before.higher,
            "weight": settings.weight,
            "margin": found.margin,
            "noise": found.noise,
            "before": _interval(found.before),
            "after": _interval(found.after),
            "worse": {**_interval(found.worse), "upper": found.worse.upper},
            "p": found.p,
            "p_holm": p_holm,
            "verdict": verdict,
            "needs": found.needs if verdict == "undecided" else None,
            "chance": suite.chance,
            "lost": found.lost,
            "gained": found.gained,
            "detectable": found.detectable,
            "worst": worst(suite, before, after),
        }


def as_score(scored: Scored) -> float:
    """A figure as a score of which more is better and 0 is nothing: a loss as the mean probability of a token."""
    figure = scored.figure
    if scored.higher:
        return figure
    if scored.unit == "nats per token":
        return math.exp(-figure)
    if scored.unit == "bits per character":
        return 2**-figure
    return 1 / figure if scored.unit == "perplexity" else 1 - figure


def baseline(
    base: Base,
    suites: Sequence[Suite],
    *,
    noise: bool = True,
    drift: bool = True,
    say: Say = lambda line: None,
) -> Baseline:
    """Score a base on suites; with `noise` once more in smaller batches, with `drift` let it answer open prompts."""
    found, noises = {}, {}
    for suite in suites:
        say(f"{base.name} on {suite.name}")
        found[suite.name] = suite.score(base)
        noises[suite.name] = _noise(suite, base, found[suite.name]) if noise else 0.0
    fixed = [r for s in suites if drift and s.settings.dimension == "style" for r in s.asked(base)]
    new = [r for s in suites if drift and fixed and s.settings.role == "learnt" for r in s.asked(base)]
    return Baseline(base.name, found, noises, *(_behaviour(base, prompts) for prompts in (fixed, new)))


def compare(
    known: Baseline,
    tuned: Base,
    suites: Sequence[Suite],
    *,
    balance: Balance = GUIDES,
    say: Say = lambda line: None,
) -> Comparison:
    """Score a tuned model on the same suites in the same batches, and judge what changed."""
    after, changes = {}, {}
    for suite in suites:
        say(f"{tuned.name} on {suite.name}")
        after[suite.name] = suite.score(tuned)
        changes[suite.name] = change(
            known.scores[suite.name], after[suite.name], margin=suite.settings.margin, noise=known.noise[suite.name]
        )
    scored = {name: made for name, made in changes.items() if after[name].higher is not None}
    unknown = {s.name for s in suites if after[s.name].higher and guessed(changes[s.name].before, s.chance)}
    said = {name: verdict for name, verdict in judged(scored).items() if name not in unknown or verdict == "improved"}
    verdicts: dict[str, str | None] = {**dict.fromkeys(changes), **said}
    output, style = {}, {}
    if known.fixed is not None:
        say(f"{tuned.name} answers open prompts")
        asked = {"fixed prompts": known.fixed, "new prompts": known.new}
        output = {name: output_drift(base, tuned) for name, base in asked.items() if base is not None}
        style = style_drift(known.fixed, tuned)
    return Comparison(
        known.name, tuned.name, tuple(suites), known.scores, after, changes, verdicts, output, style, balance
    )


def _behaviour(base: Base, asked: Sequence[Record]) -> Behaviour | None:
    """What a base answers to prompts, and how it goes on from the openings of texts; to so many at most."""
    prompts = [
        record if isinstance(record, Completion) else Completion(_opening(record.text), "")
        for record in asked
        if isinstance(record, Completion | Text)
    ]
    return behaviour(base, prompts[:PROMPTS]) if prompts else None


def _opening(text: str) -> str:
    return text[:OPENING].rpartition(" ")[0] or text[:OPENING]


def worst(suite: Suite, before: Scored, after: Scored, most: int = WORST) -> list[dict[str, Any]]:
    """The examples that got worse by most, with both answers where there are any."""
    if before.higher is None:
        return []
    sign = -1.0 if before.higher else 1.0
    fell = sign * (after.each() - before.each())
    order = [int(i) for i in torch.argsort(fell.nan_to_num(-math.inf), descending=True, stable=True)[:most]]
    shown = []
    for i in (i for i in order if float(fell[i]) > 0):
        prompt, expected = suite.shown(i)
        pair = [side.answers[i] if side.answers else "" for side in (before, after)]
        figures = [float(side.each()[i]) for side in (before, after)]
        shown.append(
            {"prompt": prompt, "expected": expected, "before": pair[0], "after": pair[1]}
            | {"score_before": figures[0], "score_after": figures[1]}
        )
    return shown


def _noise(suite: Suite, base: Base, first: Scored) -> float:
    """How far a second measurement in other batches may be off: the larger end of its interval."""
    if suite.settings.kind == "lm_eval":
        return 0.0
    name, knobs = suite.metric
    settings = suite.settings.model_copy(update={"metric": {name: {**knobs, "batch_tokens": BATCH_TOKENS // 32}}})
    again = replace(suite, settings=settings).score(base)
    same_examples(first, again)
    if np.array_equal(first.stats, again.stats):
        return 0.0
    found = change(first, again, margin=0.0, resamples=200).worse
    return max(abs(found.low), abs(found.high))


def _interval(found: Interval) -> dict[str, float | int]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "se": found.se, "n": found.n}
