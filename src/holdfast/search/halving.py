"""Successive halving with several objectives: short runs for all, longer ones for those that nothing leaves behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

SHARES = (1 / 9, 1 / 3, 1.0)
"""How much of a recipe's steps each rung makes."""

ETA = 3
"""One in so many candidates goes up a rung."""

MOST = 3.0
"""How much more a short run is believed to forget than the whole one."""

Objectives = tuple[float, ...]
"""What is minimised: minus the gain, the forgetting, and the third objective where there is one."""


def rungs(steps: int) -> list[int]:
    """The numbers of steps of the rungs, rising; the last is all of them.

    >>> rungs(150), rungs(2)
    ([17, 50, 150], [1, 2])
    """
    return sorted({max(1, round(steps * share)) for share in SHARES})


def fronts(points: Sequence[Objectives]) -> list[int]:
    """For each point how many fronts lie before it: 0 where no other is as good in all and better in one.

    Non-dominated sorting: Deb et al. (2002), doi:10.1109/4235.996017.

    >>> fronts([(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (2.0, 2.0)])
    [0, 0, 1, 2]
    """
    values = np.asarray(points, dtype=np.float64).reshape(len(points), len(points[0]) if points else 0)
    as_good: NDArray[np.bool_] = np.all(values[:, None] <= values[None], axis=-1)
    beats: NDArray[np.bool_] = as_good & np.any(values[:, None] < values[None], axis=-1)
    found = np.full(len(points), -1)
    place = 0
    while (left := found < 0).any():
        found[left & ~beats[left].any(0)] = place
        place += 1
    return [int(front) for front in found]


def crowding(points: Sequence[Objectives]) -> list[float]:
    """How far the neighbours of each point are apart, summed over objectives; infinite at both ends (Deb et al. 2002).

    >>> crowding([(0.0, 2.0), (1.0, 1.0), (2.0, 0.0)])
    [inf, 2.0, inf]
    """
    values = np.asarray(points, dtype=np.float64).reshape(len(points), -1)
    apart = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        reach = float(np.ptp(column)) or 1.0
        apart[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / reach
        apart[order[[0, -1]]] = math.inf
    return [float(distance) for distance in apart]


def order(points: Sequence[Objectives], limit: float | None = None) -> list[int]:
    """Indices of the points, best first: front by front, and in each front those nearest to the budget.

    `limit` is the budget in nats of forgetting; without one the points with most room around them come first. A front
    crosses its budget where the most is learnt for it, so what lies far on either side is not worth a longer run.
    """
    front = fronts(points)
    if limit is not None:
        return sorted(range(len(points)), key=lambda i: (front[i], abs(points[i][1] - limit), i))
    room = [0.0] * len(points)
    for place in set(front):
        members = [i for i, found in enumerate(front) if found == place]
        for i, distance in zip(members, crowding([points[i] for i in members]), strict=True):
            room[i] = distance
    return sorted(range(len(points)), key=lambda i: (front[i], -room[i], i))


def foretold(limit: float, share: float, ratios: Sequence[float]) -> float:
    """The budget, in nats, as a run of a share of the steps meets it.

    `ratios` are the forgetting after the short run over that after the whole one, of recipes that made both: below 1
    where forgetting grows with the steps, above where replay mends what the first steps broke. Their median is believed
    within [share², 3]; without any the share itself stands for it.
    """
    known = [ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0]
    return limit * (min(MOST, max(share**2, median(known))) if known else share)


def promoted(
    done: Mapping[int, Sequence[Objectives]],
    rungs: int,
    limits: Sequence[float | None],
    *,
    failed: frozenset[int] = frozenset(),
    outside: frozenset[int] = frozenset(),
    more: bool = True,
) -> tuple[int, int] | None:
    """The candidate that goes up next and the rung it goes to, or None where none has earned it.

    `done` holds for each candidate its objectives, rung by rung. Of the n candidates on a rung the best n // 3 may go
    up, looked for from the highest rung down, so that no rung waits for others to be full; once no `more` candidates
    come, n / 3 rounded up. `failed` ones do not go up; those `outside` are compared with but take no place. ASHA, Li et
    al. (2020), arXiv:1810.05934; with several objectives, Schmucker et al. (2021), arXiv:2106.12639.
    """
    for rung in range(rungs - 2, -1, -1):
        here = [number for number in sorted(done) if len(done[number]) > rung]
        entered = sum(number not in outside for number in here)
        places = entered // ETA if more else math.ceil(entered / ETA)
        ranked = [here[i] for i in order([done[number][rung] for number in here], limits[rung])]
        best = [number for number in ranked if number not in outside][:places]
        for number in best:
            if len(done[number]) == rung + 1 and number not in failed:
                return number, rung + 1
    return None


def volume(points: Sequence[Objectives], reference: Objectives) -> float:
    """The area that points in two objectives dominate up to the reference, in the product of their units.

    >>> volume([(-1.0, 0.0), (-2.0, 1.0)], (0.0, 2.0))
    3.0
    """
    area, height = 0.0, reference[1]
    for x, y, *_ in sorted(points):
        if x < reference[0] and y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return area


def knee(points: Sequence[Objectives]) -> int:
    """The index of the point that bulges furthest from the line between the ends of a front, both axes scaled to 1.

    Of fewer than three points, the one with the smallest first objective (the largest gain). Das (1999),
    doi:10.1007/s001580050111.
    """
    values = np.asarray(points, dtype=np.float64)[:, :2]
    first, last = int(values[:, 0].argmin()), int(values[:, 1].argmin())
    if len(points) < 3 or first == last:
        return first
    reach = np.ptp(values, axis=0)
    scaled = (values - values.min(0)) / np.where(reach > 0, reach, 1.0)
    return int(scaled.sum(1).argmin())
