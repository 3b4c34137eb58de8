"""How well items are ranked: hits and gains per case, by item and by semantic ID, with intervals over users."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast._errors import BadInput, UnknownName
from holdfast.evaluation.scored import Floats
from holdfast.evaluation.statistics import Interval, bootstrap
from holdfast.items.catalogue import Catalogue, Interaction
from holdfast.items.exposure import exposure
from holdfast.items.segments import Mask, segments

Ranks = NDArray[np.int64]

KS = (1, 3, 5, 10, 20, 50)
"""How many recommendations are looked at, as in the published tables."""

MEASURES: dict[str, Callable[[Ranks], Floats]] = {
    "hr": lambda ranks: (ranks > 0).astype(np.float64),
    "ndcg": lambda ranks: np.where(ranks > 0, 1 / np.log2(np.maximum(ranks, 1) + 1), 0.0),
    "mrr": lambda ranks: np.where(ranks > 0, 1 / np.maximum(ranks, 1), 0.0),
}
"""Of the target's ranks int [n], 0 where it is not among the first K: hit rate, normalised discounted cumulative gain
with one relevant item, 1 / log2(rank + 1) (Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418), 1 / rank."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """What was recommended in n cases, item ids best first, and where the target stood in it.

    A recommendation that is no item keeps its place in the list. By ID, items that share a semantic ID are one
    recommendation and count as a hit for each other, as in MiniOneRec; this can only flatter. A list goes on until the
    largest K different IDs stand in it; by item only its first K items count. Cases of one user belong together, so
    users are resampled. `segments` are named parts of the cases, bool [n].
    """

    catalogue: Catalogue
    cases: tuple[Interaction, ...]
    recommended: tuple[tuple[str, ...], ...]
    segments: Mapping[str, Mask]
    ks: tuple[int, ...] = KS
    seed: int = 0
    resamples: int = 2000

    @cached_property
    def users(self) -> NDArray[np.int64]:
        """The number of each case's user, int [n]."""
        return np.unique([case.user for case in self.cases], return_inverse=True)[1].astype(np.int64)

    @cached_property
    def by_item(self) -> Ranks:
        """Rank of each target, from 1, by item; 0 where it was not recommended. int [n]."""
        return ranks(self.recommended, [case.target for case in self.cases])

    @cached_property
    def by_id(self) -> Ranks:
        """Rank of each target's semantic ID; raises BadInput where there are no IDs. int [n]."""
        joined = {item: self.catalogue.sid(item) for item in self.catalogue.items}
        lists = [list(dict.fromkeys(joined.get(item, item) for item in items)) for items in self.recommended]
        return ranks(lists, [joined[case.target] for case in self.cases])

    def each(self, measure: str, *, by: str = "item") -> Floats:
        """A measure (`hr@10`, `ndcg@5`, `mrr@50`) of each case, float64 [n]; `by` is `item` or `id`."""
        name, at = _measure(measure)
        if by not in ("item", "id"):
            raise UnknownName("way to count hits called", by, ("item", "id"))
        found = self.by_item if by == "item" else self.by_id
        values: Floats = MEASURES[name](np.where(found <= at, found, 0))
        return values

    def interval(self, measure: str, *, by: str = "item", segment: str | None = None) -> Interval:
        """The mean of a measure over the cases (of a segment), with its 95 % interval over users.

        Where all users agree (no hit at all, say) nothing can be resampled, and bounds come from their number; see
        `agreed`.
        Raises UnknownName for an unknown measure or segment, BadInput for a segment without cases.
        """
        if segment is not None and segment not in self.segments:
            raise UnknownName("segment called", segment, self.segments)
        return self._over_users(self.each(measure, by=by), None if segment is None else self.segments[segment])

    def above(self, other: Ranking, measure: str, *, by: str = "item") -> Interval:
        """By how much this ranks better than another on the same cases, in pairs, with its interval over users.

        Where all users agree, and two rankings of the same items do, bounds are as wide as `agreed` says. Raises
        BadInput for other cases.
        """
        if [(c.user, c.target) for c in self.cases] != [(c.user, c.target) for c in other.cases]:
            raise BadInput("Two rankings can be compared only on the same cases, in the same order.")
        return self._over_users(self.each(measure, by=by) - other.each(measure, by=by), least=-1.0)

    def flattery(self, measure: str) -> Interval:
        """By how much counting by semantic ID raises a measure, in pairs; exactly 0 where no two items share an ID."""
        gains = self.each(measure, by="id") - self.each(measure)
        unique = len(self.catalogue.by_sid) == len(self.catalogue.tokens)
        return self._over_users(gains, least=None if unique else 0.0)

    @property
    def _counted(self) -> list[tuple[str, ...]]:
        """The lists as far as they count by item."""
        return [items[: max(self.ks)] for items in self.recommended]

    @property
    def valid(self) -> float:
        """The share of all recommendations that are items of the catalogue; nan where nothing was recommended."""
        given = [item in self.catalogue.items for items in self._counted for item in items]
        return float(np.mean(given)) if given else float("nan")

    def told(self) -> dict[str, Any]:
        """All of it as plain values; segments and exposure at 10, or at the largest K below."""
        at = max((k for k in self.ks if k <= 10), default=min(self.ks))
        names = [f"{name}@{k}" for name in ("hr", "ndcg") for k in self.ks] + [f"mrr@{max(self.ks)}"]
        lengths = [len(items) for items in self._counted]
        found: dict[str, Any] = {
            "cases": len(self.cases),
            "users": len(np.unique(self.users)),
            "shortest_list": min(lengths),
            "valid": self.valid,
            "by_item": {name: plain(self.interval(name)) for name in names},
            "segments": {name: self._segment(name, at) for name in self.segments},
            f"exposure@{at}": exposure([items[:at] for items in self.recommended], self.catalogue),
        }
        if self.catalogue.tokens:
            found["by_id"] = {name: plain(self.interval(name, by="id")) for name in names}
            found["flattery"] = {name: plain(self.flattery(name)) for name in (f"hr@{at}", f"ndcg@{at}")}
        return found

    def _segment(self, name: str, at: int) -> dict[str, Any]:
        count = int(self.segments[name].sum())
        measures = (f"hr@{at}", f"ndcg@{at}") if count else ()
        return {"cases": count, **{measure: plain(self.interval(measure, segment=name)) for measure in measures}}

    def _over_users(self, values: Floats, within: Mask | None = None, least: float | None = 0.0) -> Interval:
        """The mean of values from `least` to 1, by `agreed` where all users do; None where they need no such bound."""
        inside = np.ones(len(values), dtype=bool) if within is None else within
        if not inside.any():
            raise BadInput("There is no case in this segment, so nothing can be averaged.")
        numbers = np.unique(self.users[inside], return_inverse=True)[1]
        sums, counts = np.bincount(numbers, values[inside]), np.bincount(numbers)
        found = bootstrap(sums, counts, resamples=self.resamples, seed=self.seed)
        certain = least is None or (found.n > 1 and found.se > 0)
        return found if certain or least is None else agreed(found, counts, least)


def ranked(
    cases: Sequence[Interaction],
    recommended: Sequence[Sequence[str]],
    catalogue: Catalogue,
    counts: Mapping[str, int],
    *,
    ks: Sequence[int] = KS,
    head: float = 0.2,
    long: int = 5,
    seed: int = 0,
    resamples: int = 2000,
) -> Ranking:
    """Item ids recommended in each case, best first, as a `Ranking` with the segments of `segments`.

    `counts` says how often each item was chosen in training (`catalogue.popularity`). What a model says as semantic
    IDs becomes items by `items_of`. Raises BadInput for no cases, or lists that are not one for each case.
    """
    if not cases or len(cases) != len(recommended):
        raise BadInput(f"A ranking takes one list for each case; there are {len(recommended)} for {len(cases)} cases.")
    if not ks or min(ks) < 1:
        raise BadInput(f"K is at least 1, not one of {list(ks)}.")
    lists = tuple(tuple(items) for items in recommended)
    parts = segments(cases, counts, head=head, long=long)
    return Ranking(catalogue, tuple(cases), lists, parts, tuple(sorted(set(ks))), seed, resamples)


def ranks(recommended: Sequence[Sequence[str]], targets: Iterable[str]) -> Ranks:
    """Where each target stands in its list, from 1; 0 where it does not. int [n]."""
    pairs = zip(recommended, targets, strict=True)
    return np.array(
        [list(items).index(target) + 1 if target in items else 0 for items, target in pairs], dtype=np.int64
    )


def items_of(ids: Sequence[str], catalogue: Catalogue, counts: Mapping[str, int]) -> list[str]:
    """Ranked semantic IDs as ranked items: those that share an ID follow each other, the most often chosen first.

    What is no semantic ID of an item stays as it is and keeps its place: it is a recommendation lost.
    """
    found: list[str] = []
    for name in ids:
        same = catalogue.by_sid.get(name, (name,))
        found += sorted(same, key=lambda item: -counts.get(item, 0))
    return found


def agreed(found: Interval, counts: NDArray[np.int64], least: float) -> Interval:
    """The mean of users who all have the same value in [least, 1], with bounds for those who were not asked.

    If a share p of all users has another value, n users agree with chance (1 - p)^n, so p is at most
    u = 1 - (alpha / 2)^(1 / n), and those others move the mean to least or to 1 at most. Without any hit that is the
    interval of Clopper and Pearson (1934, doi:10.1093/biomet/26.4.404) for 0 of n, [0, u]; so it is for hits alone.
    Users with more cases weigh more: n is (sum of counts)^2 / sum of squared counts (Kish 1965, Survey Sampling).
    """
    n = float(counts.sum()) ** 2 / float((counts**2).sum())
    two, one = (1 - tail ** (1 / n) for tail in (0.025, 0.05))
    below, above = found.mean - least, 1 - found.mean
    return replace(found, low=found.mean - two * below, high=found.mean + two * above, upper=found.mean + one * above)


def plain(interval: Interval) -> dict[str, float]:
    """Mean and bounds alone."""
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _measure(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\w+)@([1-9]\d*)", name)
    if not found or found[1] not in MEASURES:
        raise UnknownName("measure of a ranking called", name, [f"{known}@10" for known in MEASURES])
    return found[1], int(found[2])
