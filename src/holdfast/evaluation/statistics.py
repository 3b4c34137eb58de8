"""Intervals: how much a loss rose, how sure that is, and how much text it takes to be surer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

from holdfast._errors import BadInput
from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.scored import Floats, Reduce, ratio

DRAWS = 2**22
"""Elements of one block of resampled indices (32 MiB)."""


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided interval `low` to `high`, the one-sided bound `upper`, all at the same level.

    `se` is its standard error and `n` the number of independent items. With one item nothing is known of the spread:
    the bounds and `se` are infinite. Where all items agree exactly, every bound is the mean and `se` is 0.
    """

    mean: float
    low: float
    high: float
    upper: float
    se: float
    n: int

    @property
    def spread(self) -> float:
        """Standard deviation per item, as `needed` and `resolvable` take it."""
        return self.se * math.sqrt(self.n)


def paired(
    before: SequenceLosses, after: SequenceLosses, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The rise of the loss in nats per token, and its interval, from the same sequences scored twice.

    The estimate is sum(after - before) / sum(tokens), token-weighted like perplexity: exp of it is the perplexity
    ratio. Documents are resampled whole, in pairs, by `bootstrap` (sequences, where each is a text of its own): parts
    of one story rise and fall together, and taking them for independent made intervals up to 1.9 times too narrow.
    A loss that is not finite is an infinite rise. Documents without scored tokens are left out. Raises BadInput where
    the two do not score the same tokens, or where `before` is not finite.
    """
    if len(before) != len(after) or not bool((before.tokens == after.tokens).all()):
        raise BadInput("A paired comparison needs the same rows scored twice; these two do not score the same tokens.")
    if not bool(before.total.isfinite().all()):
        raise BadInput("The loss before is not finite on some sequence, so no rise can be measured from it.")
    before, after = before.by(after.documents), after.by(after.documents)
    scored = (before.tokens > 0).numpy()
    rises = (after.total - before.total).numpy()[scored]
    return bootstrap(rises, before.tokens.numpy()[scored], level=level, resamples=resamples, seed=seed)


def mean_interval(values: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The plain mean of per-item values and its interval; nan (nothing was scored) is left out."""
    given = np.asarray(values, dtype=np.float64).ravel()
    given = given[~np.isnan(given)]
    return bootstrap(given, np.ones_like(given), level=level, resamples=resamples, seed=seed)


def bootstrap(
    sums: ArrayLike, weights: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The ratio sum(sums) / sum(weights) over items [n] with the intervals of `resampled`.

    With sums that are not all finite the mean and every bound are infinite. Raises BadInput for no items, weights that
    are not positive, or a level outside (0, 1).
    """
    values, sizes = np.asarray(sums, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not (sizes > 0).all():
        raise BadInput("An average needs positive weights.")
    if len(values) and not np.isfinite(values).all():
        return Interval(math.inf, math.inf, math.inf, math.inf, math.inf, len(values))
    stats = np.stack([values, sizes], axis=-1)
    return resampled(stats, ratio, level=level, resamples=resamples, seed=seed)


def resampled(stats: Floats, reduce: Reduce, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The figure `reduce(stats.sum(0))` of items [n, k] with bootstrap intervals; `reduce` maps [..., k] to [...].

    Items are drawn with replacement; the bounds are bias-corrected and accelerated (BCa; Efron 1987,
    doi:10.1080/01621459.1987.10478410), percentiles where BCa is not defined. Their levels are
    widened for small n as in Hesterberg (2015, doi:10.1080/00031305.2015.1089789, section 4.3: Student's t, and
    n / (n - 1) for the variance), else bounds from few items are too narrow. Raises BadInput for no items, or a level
    outside (0, 1).
    """
    if not len(stats):
        raise BadInput("There is nothing to average: no sequence of these rows bears loss.")
    if not 0 < level < 1 or resamples < 1:
        raise BadInput(f"An interval needs 0 < level < 1 and resamples >= 1; level is {level}.")
    n, total = len(stats), stats.sum(axis=0)
    mean = float(reduce(total))
    if n == 1 or not math.isfinite(mean):
        return Interval(mean, -math.inf, math.inf, math.inf, math.inf, n)
    drawn = np.sort(np.concatenate([reduce(sums) for sums in draws(stats, resamples, seed)]))
    drawn = drawn[np.isfinite(drawn)]
    few = math.sqrt(n / (n - 1))
    se = few * float(drawn.std(ddof=1)) if len(drawn) > 1 else math.inf
    if not len(drawn):
        return Interval(mean, math.nan, math.nan, math.nan, math.nan, n)
    if np.ptp(drawn) <= 1e-12 * abs(mean):
        return Interval(mean, mean, mean, mean, 0.0, n)
    tail = (1 - level) / 2
    wider = np.clip(norm.cdf(few * t.ppf([tail, 1 - tail, level], n - 1)), 1e-9, 1 - 1e-9).tolist()
    low, high, upper = _bca(drawn, mean, reduce(total - stats), wider)
    return Interval(mean, low, high, upper, se, n)


def draws(stats: Floats, resamples: int, seed: int) -> Iterator[Floats]:
    """Sums of resampled items [resamples, k], a block at a time; the same seed draws the same items of any stats."""
    random, n = np.random.default_rng(seed), len(stats)
    block = max(1, DRAWS // n)
    for first in range(0, resamples, block):
        count = min(block, resamples - first)
        drawn = random.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64) @ stats


def needed(spread: float, width: float, *, level: float = 0.95) -> int:
    """How many items bring the one-sided bound within `width` of the mean: (z * spread / width)^2, at least 2."""
    if not width > 0:
        raise BadInput(f"No number of items resolves a width of {width}; it has to be positive.")
    if not math.isfinite(spread):
        raise BadInput("The spread is not known; it takes at least two items to measure it.")
    return max(2, math.ceil((NormalDist().inv_cdf(level) * spread / width) ** 2 - 1e-9))


def resolvable(spread: float, n: int, *, level: float = 0.95) -> float:
    """How far the one-sided bound stands from the mean with `n` items: z * spread / sqrt(n), in the unit of spread."""
    if n < 1:
        raise BadInput("Without items nothing is resolved.")
    return NormalDist().inv_cdf(level) * spread / math.sqrt(n)


def _bca(drawn: Floats, mean: float, jackknife: Floats, levels: Sequence[float]) -> list[float]:
    """Quantiles of the sorted bootstrap ratios, at levels corrected for bias and skewness."""
    normal = NormalDist()
    below = float((np.count_nonzero(drawn < mean) + np.count_nonzero(drawn <= mean)) / (2 * len(drawn)))
    if not 0 < below < 1:
        return [float(q) for q in np.quantile(drawn, levels)]
    bias = normal.inv_cdf(below)
    jackknife = jackknife[np.isfinite(jackknife)]
    skew = jackknife.mean() - jackknife if len(jackknife) else np.zeros(1)
    scale = float((skew**2).sum()) ** 1.5
    acceleration = float((skew**3).sum()) / (6 * scale) if scale else 0.0

    def corrected(level: float) -> float:
        z = bias + normal.inv_cdf(level)
        return normal.cdf(bias + z / (1 - acceleration * z))

    return [float(q) for q in np.quantile(drawn, [corrected(level) for level in levels])]
