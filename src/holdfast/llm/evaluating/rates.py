"""How much of its figures a model lost: the guide's rates, never below 0, beside those with their sign and interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holdfast._errors import BadInput
from holdfast.evaluation.change import Change, change, judged
from holdfast.evaluation.scored import Floats, Scored, same_examples
from holdfast.evaluation.statistics import Interval, resampled

UNKNOWN = {"low": None, "high": None, "n": None, "verdict": None}
"""What is said of a rate where it is not known what each example contributed."""


class Results(dict[str, dict[str, Any]]):
    """What a model did, as the guide tells it: figures by data set and metric. Plain values, so it goes into JSON.

    `scored` keeps what each example contributed, by data set and metric, so that two models can be compared in pairs.
    """

    def __init__(self, told: Mapping[str, dict[str, Any]], scored: Mapping[str, Mapping[str, Scored]]):
        super().__init__(told)
        self.scored = {name: dict(found) for name, found in scored.items()}


def forgetting_rates(pretrained: Mapping[str, Any], finetuned: Mapping[str, Any]) -> dict[str, Any]:
    """The share that each figure got worse by, with averages over the metrics of a data set and over data sets.

    Beside each rate stands `signed_<metric>`, below 0 where it got better, with a 95 % interval over paired examples
    and a verdict at the suites' usual margins (Holm over all). `average` and `overall_average` are the guide's: plain
    means of clipped rates. They mix what has no upper end (a perplexity that grew tenfold counts 9) with shares of at
    most 1, count `knowledge_retention` beside the perplexity that it is made of, and are above 0 by chance alone.
    `signed_average` and `signed_overall_average` mix the same but without clipping, over those rates whose interval is
    known; their bounds are the means of bounds, which is wider than need be unless all move together.
    """
    rates: dict[str, Any] = {}
    scored: dict[tuple[str, str], tuple[Scored, Scored]] = {}
    for name in (name for name in pretrained if isinstance(finetuned.get(name), Mapping)):
        figures = _figures(pretrained[name], finetuned[name])
        rates[name] = {metric: _rate(metric, *pair) for metric, pair in figures.items()}
        found = {(name, metric): _pair(pretrained, finetuned, name, metric) for metric in figures}
        scored |= {key: pair for key, pair in found.items() if pair is not None}
    signed = _signed(scored)
    told = {name: _of_data_set(found, signed.get(name, {})) for name, found in rates.items()}
    return {**told, **_overall(list(told.values()))}


def signed_rate(before: Scored, after: Scored) -> Interval:
    """The share that a figure got worse by, below 0 where it got better, over paired examples."""
    same_examples(before, after)
    k, sign = before.stats.shape[1], -1.0 if before.higher else 1.0

    def rate(sums: Floats) -> Floats:
        first, second = before.reduce(sums[..., :k]), after.reduce(sums[..., k:])
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = sign * (second - first) / first
        return found

    return resampled(np.concatenate([before.items().stats, after.items().stats], axis=-1), rate)


def interval(found: Interval) -> dict[str, Any]:
    """An interval in plain values; a bound that is not known is None."""
    bounds = {"low": found.low, "high": found.high}
    told = {k: v + 0.0 if math.isfinite(v) else None for k, v in bounds.items()}  # + 0.0: there is no minus zero
    return {"mean": found.mean + 0.0, **told, "n": found.n}


def _signed(scored: Mapping[tuple[str, str], tuple[Scored, Scored]]) -> dict[str, dict[str, Any]]:
    """Signed rates with intervals and verdicts, by data set and metric."""
    verdicts = judged({"\0".join(key): _change(*pair) for key, pair in scored.items()})
    told: dict[str, dict[str, Any]] = {}
    for (name, metric), pair in scored.items():
        found = {**interval(signed_rate(*pair)), "verdict": verdicts[f"{name}\0{metric}"]}
        told.setdefault(name, {})[metric] = found
    return told


def _of_data_set(rates: Mapping[str, float], signed: Mapping[str, Any]) -> dict[str, Any]:
    """Each rate clipped and with its sign, then their averages."""
    told: dict[str, Any] = {}
    for metric, rate in rates.items():
        told[metric] = max(0.0, rate)
        told[f"signed_{metric}"] = signed.get(metric) or {"mean": rate, **UNKNOWN}
    if rates:
        told["average"] = math.fsum(told[metric] for metric in rates) / len(rates)
    if known := [found for found in signed.values() if found["low"] is not None and found["high"] is not None]:
        told["signed_average"] = _mean(known)
    return told


def _overall(rates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    averages = [found["average"] for found in rates if "average" in found]
    signed = [found["signed_average"] for found in rates if "signed_average" in found]
    told: dict[str, Any] = {"overall_average": math.fsum(averages) / len(averages)} if averages else {}
    return {**told, "signed_overall_average": _mean(signed)} if signed else told


def _figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """What both tell of a data set in numbers, by metric."""
    both = {metric: (before[metric], after[metric]) for metric in before if metric in after}
    return {m: pair for m, pair in both.items() if all(isinstance(v, int | float) and v == v for v in pair)}


def _rate(metric: str, before: float, after: float) -> float:
    """Of perplexity its relative rise, of anything else its relative fall; 0 where there was nothing."""
    return (after - before) / before * (1 if metric == "perplexity" else -1) if before > 0 else 0.0


def _pair(
    pretrained: Mapping[str, Any], finetuned: Mapping[str, Any], name: str, metric: str
) -> tuple[Scored, Scored] | None:
    """What the examples of both contributed, where that is known and they are the same examples."""
    sides = [getattr(side, "scored", {}).get(name, {}).get(metric) for side in (pretrained, finetuned)]
    if sides[0] is None or sides[1] is None or not sides[0].figure > 0:
        return None
    try:
        same_examples(*sides)
    except BadInput:
        return None
    return sides[0], sides[1]


def _change(before: Scored, after: Scored) -> Change:
    """Perplexity may rise by 1 % and count as kept, as the loss may in a suite."""
    return change(before, after, margin=0.01 * before.figure if before.unit == "perplexity" else None)


def _mean(signed: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {key: math.fsum(one[key] for one in signed) / len(signed) for key in ("mean", "low", "high")}
