"""Parts of the cases of a ranking: new and known items, popular and rare ones, short and long histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast._errors import BadInput
from holdfast.items.catalogue import Interaction

Mask = NDArray[np.bool_]


def segments(
    cases: Sequence[Interaction], counts: Mapping[str, int], *, head: float = 0.2, long: int = 5
) -> dict[str, Mask]:
    """Parts of the cases: `cold` (the target was never seen in training) or `warm`; `head`, whose target is one of the
    most popular items that together make up the share `head` of what was chosen in training, or `tail`; `long`, with at
    least `long` items before, or `short`. Each bool [n].
    """
    top = most_popular(counts, head)
    cold = np.array([not counts.get(case.target) for case in cases])
    popular = np.array([case.target in top for case in cases])
    lengthy = np.array([len(case.history) >= long for case in cases])
    return {
        "cold": cold,
        "warm": ~cold,
        "head": popular,
        "tail": ~popular,
        "short": ~lengthy,
        "long": lengthy,
    }


def most_popular(counts: Mapping[str, int], share: float) -> set[str]:
    """The fewest items, most popular first, that make up at least this share of all choices."""
    if not 0 < share < 1:
        raise BadInput(f"The head is a share between 0 and 1, not {share}.")
    top: set[str] = set()
    reached, whole = 0, sum(counts.values())
    for item, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        if reached >= share * whole:
            break
        top.add(item)
        reached += count
    return top
