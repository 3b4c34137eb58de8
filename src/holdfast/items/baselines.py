"""Recommendations without a model: what is popular, what followed, what goes together, what one had before."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from holdfast._registry import Registry
from holdfast.items.catalogue import Interaction

Rank = Callable[[Sequence[str], int], list[str]]
"""From a history of item ids, oldest first, and a number to so many item ids at most, best first, each once."""

Baseline = Callable[[Sequence[Interaction]], Rank]

baselines: Registry[Baseline] = Registry("baseline")
"""Ways to learn from training interactions how to rank, by name; of equals, what was chosen first comes first."""


@baselines.register("popularity")
def popular(train: Sequence[Interaction]) -> Rank:
    """What was chosen most often as next, whatever the history."""
    order = _order(Counter(row.target for row in train))
    return lambda history, k: order[:k]


@baselines.register("successor")
def successor(train: Sequence[Interaction]) -> Rank:
    """What most often came right after the last item (a bigram), then what is popular."""
    after: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        after[row.history[-1]][row.target] += 1
    orders = {item: _order(counts) for item, counts in after.items()}
    return _then(lambda history, k: orders.get(history[-1], [])[:k], popular(train))


@baselines.register("own history")
def own_history(train: Sequence[Interaction]) -> Rank:
    """What the user had before, most recent first, and nothing else; learns nothing."""
    return lambda history, k: list(dict.fromkeys(reversed(history)))[:k]


@baselines.register("together")
def together(train: Sequence[Interaction]) -> Rank:
    """What users of the same items had: sum over the history of n(i, j) / sqrt(n(i) n(j)), then what is popular.

    The cosine of two items over users (Sarwar et al. 2001, doi:10.1145/371920.372071); the history's own items are as
    near to themselves as can be, so they are left out, among the popular items too.
    """
    baskets: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for row in train:
        baskets[row.user].update(dict.fromkeys((*row.history, row.target)))
    alone = Counter(item for basket in baskets.values() for item in basket)
    pairs: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for basket in baskets.values():
        for item in basket:
            pairs[item].update(other for other in basket if other != item)

    def near(history: Sequence[str], k: int) -> list[str]:
        scores: defaultdict[str, float] = defaultdict(float)
        for item in dict.fromkeys(history):
            for other, count in pairs.get(item, {}).items():
                scores[other] += count / math.sqrt(alone[item] * alone[other])
        best = sorted(scores, key=lambda item: -scores[item])
        return [item for item in best if item not in history][:k]

    return _then(near, unseen(popular(train)))


def unseen(rank: Rank) -> Rank:
    """The same without the items of the history."""

    def without(history: Sequence[str], k: int) -> list[str]:
        had = set(history)
        return [item for item in rank(history, k + len(had)) if item not in had][:k]

    return without


def recommended(
    rank: Rank, cases: Sequence[Interaction], k: int, called: Callable[[str], str] = lambda item: item
) -> list[list[str]]:
    """What is recommended in each case: items until `k` of them are called differently, or all that there are.

    `called` gives an item's name, such as its semantic ID; without it each item has its own, and `k` come at most.
    """
    return [_until(rank, case.history, k, called) for case in cases]


def _until(rank: Rank, history: Sequence[str], k: int, called: Callable[[str], str]) -> list[str]:
    asked, found = k, rank(history, k)
    while len(found) == asked and len(set(map(called, found))) < k:
        asked *= 2
        found = rank(history, asked)
    return found


def _then(first: Rank, rest: Rank) -> Rank:
    """What the first ranks, then what the second does."""
    return lambda history, k: list(dict.fromkeys([*first(history, k), *rest(history, k)]))[:k]


def _order(counts: Counter[str]) -> list[str]:
    return [item for item, _ in counts.most_common()]
