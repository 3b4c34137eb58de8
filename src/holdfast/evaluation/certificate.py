"""The certificate: what was learnt and what was kept, measured once at the end on text that steered nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from holdfast.data.probes import Probe
from holdfast.evaluation.classes import class_entry
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.statistics import Interval, bootstrap, needed, paired

VERDICTS = ("broken", "undecided", "holds")
"""From worst to best; a certificate is as good as its worst text."""


@dataclass(frozen=True)
class Audited:
    """A text, the base's losses on it, and the allowed relative rise of perplexity (0.02: 2 %), if there is a limit.

    `reference` says in words what `before` is where it is not the base's.
    """

    probe: Probe
    before: SequenceLosses
    budget: float | None = None
    reference: str | None = None


def certify(model: nn.Module, kept: Sequence[Audited], learnt: Sequence[Audited], *, pad_id: int = 0) -> dict[str, Any]:
    """The parts "verdict", "budget", "kept" and "learnt" of a certificate; losses in nats per token.

    A text `holds` when the one-sided 95 % bound of its perplexity ratio is at most 1 + budget, is `undecided` when only
    the mean is inside (then `needs` says how many documents would settle it, were the mean to stay), else `broken`.
    The verdict is the worst text's, None where there is no budget. Of labelled rows the losses are those of the labels,
    and there is more to say (`class_entry`).
    """

    def after(audited: Audited) -> SequenceLosses:
        return sequence_losses(model, audited.probe.rows, pad_id=pad_id)

    kept_entries = [kept_entry(audited, after(audited)) for audited in kept]
    verdicts = [entry["verdict"] for entry in kept_entries if entry["verdict"]]
    return {
        "verdict": min(verdicts, key=VERDICTS.index, default=None),
        "budget": {audited.probe.name: audited.budget for audited in kept if audited.budget is not None},
        "kept": kept_entries,
        "learnt": [
            {**learnt_entry(audited, after(audited)), **class_entry(model, audited.probe.rows, pad_id=pad_id)}
            for audited in learnt
        ],
    }


def verdict(rise: Interval, budget: float | None) -> tuple[str | None, int | None]:
    """The verdict on a loss rise in nats per token, and, where it is undecided, how many documents would settle it."""
    if budget is None:
        return None, None
    limit = math.log1p(budget)
    if rise.upper <= limit:
        return "holds", None
    if rise.mean >= limit or not math.isfinite(rise.mean):
        return "broken", None
    # The bootstrap's bound and the normal bound behind `needed` differ a little: never ask for fewer than there were.
    return "undecided", max(needed(rise.spread, limit - rise.mean), rise.n + 1) if math.isfinite(rise.spread) else None


def kept_entry(audited: Audited, after: SequenceLosses) -> dict[str, Any]:
    """What a certificate says about a text that was to be kept, from the losses on it before and after."""
    rise = paired(audited.before, after)
    judged, needs = verdict(rise, audited.budget)
    return {
        **_about(audited, rise),
        "rise": rise.mean,
        "low": rise.low,
        "high": rise.high,
        "upper": rise.upper,
        "ratio": _exp(rise.mean),
        "ratio_upper": _exp(rise.upper),
        "budget": audited.budget,
        "verdict": judged,
        "needs": needs,
    }


def learnt_entry(audited: Audited, after: SequenceLosses) -> dict[str, Any]:
    """What a certificate says about a text that was learnt, from the losses on it before and after."""
    rise = paired(audited.before, after)
    whole = after.by(after.documents)
    scored = whole.tokens > 0
    loss = bootstrap(whole.total[scored].numpy(), whole.tokens[scored].numpy())
    return {
        **_about(audited, rise),
        "base_loss": audited.before.mean(),
        "loss": loss.mean,
        "gain": -rise.mean,
        "low": -rise.high,
        "high": -rise.low,
        "perplexity": _exp(loss.mean),
        "perplexity_low": _exp(loss.low),
        "perplexity_high": _exp(loss.high),
    }


def _about(audited: Audited, rise: Interval) -> dict[str, Any]:
    tokens = int(audited.before.tokens.sum())
    told = {} if audited.reference is None else {"reference": audited.reference}
    return {"text": audited.probe.name, "source": audited.probe.source, "n": rise.n, "tokens": tokens, **told}


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
