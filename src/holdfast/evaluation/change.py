"""What changed between two models on the same examples, how sure that is, and when to call it forgetting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
from scipy.stats import binomtest, t

from holdfast._errors import BadInput
from holdfast.evaluation.scored import Floats, Scored, same_examples
from holdfast.evaluation.statistics import DRAWS, Interval, needed, resampled

MARGINS = {"share": 0.02, "score": 0.01}
"""How much worse a figure of a unit may be and count as kept; of any other unit 0.01 (1 % of perplexity for nats)."""

EXACT = 12
"""Up to so many examples a permutation test tries all ways to swap them."""


@dataclass(frozen=True)
class Change:
    """Two models on the same items, paired: `worse` is positive where the second is worse, in the figure's unit.

    `p` is the two-sided p-value of no change at all: exact McNemar for right and wrong answers, else a permutation
    test. `lost` and `gained` count answers that became wrong and right, where answers are right or wrong. `margin` is
    how much worse still counts as kept: what was asked for, or the noise of measuring where that is more.
    `p_beyond` is the one-sided p-value of being worse by no more than the margin.
    """

    before: Interval
    after: Interval
    worse: Interval
    p: float
    margin: float
    noise: float = 0.0
    lost: int | None = None
    gained: int | None = None
    centre: float | None = None
    """The estimate that intervals stand around where that is not the mean: of right and wrong answers."""

    @property
    def p_beyond(self) -> float:
        """Of the hypothesis that the true change is inside the margin (Student's t)."""
        return _tail(self.worse, self.margin, self.worse.mean if self.centre is None else self.centre)

    @property
    def detectable(self) -> float:
        """The smallest true change that such a comparison finds four times in five, in the figure's unit."""
        return detectable(self.worse.spread, self.worse.n) if math.isfinite(self.worse.spread) else math.inf

    def verdict(self, p_beyond: float | None = None, *, level: float = 0.95) -> str:
        """`forgot` where it is worse by more than the margin, `kept` where it is not, `improved` or `undecided`.

        Each is said only where a one-sided bound at `level` says it. `p_beyond` stands instead of the comparison's own
        where many are made at once (see `holm`).
        """
        if not math.isfinite(self.worse.mean):
            return "forgot" if self.worse.mean > 0 else "undecided"
        centre = self.worse.mean if self.centre is None else self.centre
        if (self.p_beyond if p_beyond is None else p_beyond) <= 1 - level:
            return "forgot"
        if _tail(self.worse, self.margin, -centre) <= 1 - level:
            return "improved"
        return "kept" if self.worse.upper <= self.margin else "undecided"

    @property
    def needs(self) -> int | None:
        """How many items would settle an undecided verdict, were the mean to stay; None where none would."""
        room = abs(self.margin - self.worse.mean)
        if not math.isfinite(self.worse.spread) or room <= 0:
            return None
        return max(needed(self.worse.spread, room), self.worse.n + 1)


def change(
    before: Scored,
    after: Scored,
    *,
    margin: float | None = None,
    noise: float = 0.0,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Change:
    """Compare two models on the same examples; a figure of which neither more nor less is better counts its rise.

    Perplexities are compared by the logarithm of their ratio, so that a margin of 0.01 is 1 %. A figure that is no
    number any more is infinitely worse. Raises BadInput where the two were not scored on the same examples by the same
    metric.
    """
    same_examples(before, after)
    margin = MARGINS.get(before.unit, 0.01) if margin is None else margin
    first, second = before.items().stats, after.items().stats
    k, sign = first.shape[1], -1.0 if before.higher else 1.0
    told = np.log if before.unit == "perplexity" else np.asarray

    def worse(sums: Floats) -> Floats:
        known, now = told(before.reduce(sums[..., :k])), told(before.reduce(sums[..., k:]))
        return np.where(np.isfinite(known) & np.isnan(now), np.inf, sign * (now - known))

    options = {"level": level, "resamples": resamples, "seed": seed}
    pairs = np.concatenate([first, second], axis=-1)
    one, two = (interval(side, **options) for side in (before, after))  # type: ignore[arg-type]
    margin = max(margin, noise)
    if before.binary and after.binary and before.documents is None:
        right, still = first[:, 0] == 1, second[:, 0] == 1
        lost, gained = int((right & ~still).sum()), int((~right & still).sum())
        found, centre = flips(lost, gained, len(first), sign=-sign, level=level)
        return Change(one, two, found, mcnemar(lost, gained), margin, noise, lost, gained, centre)
    p = permutation(first, second, worse, resamples=resamples, seed=seed)
    found = resampled(pairs, worse, **options)  # type: ignore[arg-type]
    return Change(one, two, found, p, margin, noise)


def guessed(before: Interval, chance: float | None) -> bool:
    """Whether a model knew nothing of what it was asked: its share is at chance, or 0 where nothing can be guessed.

    Of that nothing can be forgotten, and nothing be called kept.
    """
    return before.low <= chance if chance is not None else before.mean <= 0


def judged(changes: Mapping[str, Change], *, level: float = 0.95) -> dict[str, str]:
    """Verdicts on many suites at once: the chance that any is called forgotten wrongly is at most 1 - level (Holm)."""
    corrected = holm([found.p_beyond for found in changes.values()])
    return {name: found.verdict(p, level=level) for (name, found), p in zip(changes.items(), corrected, strict=True)}


def flips(lost: int, gained: int, n: int, *, sign: float = 1.0, level: float = 0.95) -> tuple[Interval, float]:
    """How much worse n right or wrong answers got, with the interval of Agresti and Min, and what that stands around.

    Half an answer is added to each of the four cells (2005, doi:10.1002/sim.1781): a bootstrap of answers of which none
    flipped would be certain that none ever does. `sign` -1 where a wrong answer is the better one.
    """
    more, less, size = lost + 0.5, gained + 0.5, n + 2
    centre = sign * (more - less) / size
    se = math.sqrt(more + less - (more - less) ** 2 / size) / size
    df = max(n - 1, 1)
    half, bound = (float(t.ppf(p, df)) * se for p in ((1 + level) / 2, level))
    mean, low, high = sign * (lost - gained) / n, max(centre - half, -1.0), min(centre + half, 1.0)
    return Interval(mean, low, high, min(centre + bound, 1.0), se, n), centre


def share(right: Floats, *, level: float = 0.95) -> Interval:
    """The share of right answers [n] with Wilson's interval (1927), which is wide where few were asked."""
    n, p = len(right), float(np.mean(right))

    def bounds(z: float) -> tuple[float, float]:
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return tuple((centre + way * half) / (1 + z * z / n) for way in (-1, 1))  # type: ignore[return-value]

    normal = NormalDist()
    (low, high), (_, upper) = bounds(normal.inv_cdf((1 + level) / 2)), bounds(normal.inv_cdf(level))
    return Interval(p, low, high, upper, math.sqrt(p * (1 - p) / n), n)


def interval(scored: Scored, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The figure of one model with its interval: Wilson's for right and wrong answers, else from the bootstrap."""
    if scored.binary and scored.documents is None and scored.stats[:, 1].all():
        return share(scored.stats[:, 0], level=level)
    return resampled(scored.items().stats, scored.reduce, level=level, resamples=resamples, seed=seed)


def mcnemar(lost: int, gained: int) -> float:
    """Exact McNemar: the two-sided binomial test that as many answers are lost as gained (Edwards 1948)."""
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def permutation(before: Floats, after: Floats, worse: object, *, resamples: int = 2000, seed: int = 0) -> float:
    """Two-sided p-value of a paired permutation test: in each item, which model is which is left to chance.

    `before` and `after` are statistics [n, k], `worse` maps their sums [..., 2k] to a difference that changes its sign
    when the two are swapped. All 2^n ways up to twelve items, else (1 + b) / (1 + resamples) of drawn ones.
    """
    assert callable(worse)
    n = len(before)
    seen = abs(float(worse(np.concatenate([before.sum(0), after.sum(0)]))))
    exact = n <= EXACT
    if not math.isfinite(seen):
        return math.nan
    as_far = ways = 0
    for swapped in _all(n) if exact else _drawn(n, resamples, seed):
        moved = swapped @ (after - before)
        found = np.abs(worse(np.concatenate([before.sum(0) + moved, after.sum(0) - moved], axis=-1)))
        as_far, ways = as_far + int((found >= seen * (1 - 1e-9)).sum()), ways + len(swapped)
    return as_far / ways if exact else (1 + as_far) / (1 + ways)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that the chance of any false alarm stays as stated (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(ps)), key=ps.__getitem__)
    found, most = [1.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(ps) - rank) * ps[i]))
        found[i] = most
    return found


def detectable(spread: float, n: int, *, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true change that a two-sided paired test finds with this power: (z_a + z_b) spread / sqrt(n)."""
    if n < 1:
        raise BadInput("Without items nothing is found.")
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)) * spread / math.sqrt(n)


def items_for(drop: float, churn: float, *, level: float = 0.95, power: float = 0.8) -> int:
    """How many items show a drop in accuracy when a share `churn` of all answers flips either way.

    n = (z_a + z_b)^2 (churn - drop^2) / drop^2 (Miller 2024, arXiv:2411.00640, for paired questions).

    >>> [items_for(0.02, churn) for churn in (0.06, 0.1, 0.2)]
    [1170, 1955, 3917]
    """
    if not 0 < drop <= churn <= 1:
        raise BadInput(f"A drop of {drop} with a churn of {churn} cannot be: 0 < drop <= churn <= 1.")
    normal = NormalDist()
    z = normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)
    return math.ceil(z**2 * (churn - drop**2) / drop**2)


def _all(n: int) -> Iterator[Floats]:
    """All ways to swap n items, at once."""
    yield np.array(list(product((0.0, 1.0), repeat=n)))


def _drawn(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Drawn ways to swap n items, a block at a time."""
    random, block = np.random.default_rng(seed), max(1, DRAWS // n)
    for first in range(0, resamples, block):
        yield random.integers(0, 2, (min(block, resamples - first), n)).astype(np.float64)


def _tail(found: Interval, limit: float, centre: float) -> float:
    """One-sided p-value of a true change at or below the limit."""
    if found.n < 2 or not math.isfinite(found.se):
        return 1.0
    if found.se == 0:
        return 0.0 if centre > limit else 1.0
    return float(t.sf((centre - limit) / found.se, found.n - 1))
