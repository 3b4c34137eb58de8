"""What recommendations show of a catalogue: how much of it, how evenly, and how unlike what stands in one list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from holdfast.items.catalogue import Catalogue


def exposure(lists: Sequence[Sequence[str]], catalogue: Catalogue) -> dict[str, float]:
    """Figures of the first K recommendations of each case; what is no item is left out.

    `coverage`: the share of items recommended at all. `gini`: 0 where all items are recommended equally often, near 1
    where few take all. `evenness`: the entropy of what is recommended over that of an even share (1: even).
    `diversity`: the chance that two items of one list are of different kinds, mean over lists with at least two
    (the intra-list diversity of Ziegler et al. 2005, doi:10.1145/1060745.1060754, where items are alike if of one
    kind); kinds are first codes of semantic IDs, else first categories, else brands. nan where there is nothing.
    """
    shown = [[item for item in items if item in catalogue.items] for items in lists]
    counts = Counter(item for items in shown for item in items)
    every = np.array([counts[item] for item in catalogue.items], dtype=np.float64)
    unlike = [diversity([kind(item, catalogue) for item in items]) for items in shown if len(items) > 1]
    return {
        "coverage": len(counts) / len(catalogue.items),
        "gini": gini(every),
        "evenness": evenness(every),
        "diversity": float(np.mean(unlike)) if unlike else float("nan"),
    }


def kind(item: str, catalogue: Catalogue) -> str:
    """What an item counts as: the first code of its semantic ID, else its first category, else its brand."""
    if catalogue.tokens:
        return catalogue.tokens[item][0]
    known = catalogue.items[item]
    return known.categories[0] if known.categories else known.brand


def diversity(kinds: Sequence[str]) -> float:
    """The chance that two of a list are of different kinds: 1 - sum n_c (n_c - 1) / (n (n - 1)).

    >>> diversity(["a", "a", "b"])
    0.666...
    """
    n = len(kinds)
    return 1 - sum(count * (count - 1) for count in Counter(kinds).values()) / (n * (n - 1))


def gini(counts: ArrayLike) -> float:
    """The Gini coefficient of counts [n]: sum (2 i - n - 1) x_i / (n sum x), x in ascending order; nan for none.

    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 8])
    (0.0, 0.75)
    """
    values = np.sort(np.asarray(counts, dtype=np.float64))
    n, whole = len(values), values.sum()
    return float(((2 * np.arange(1, n + 1) - n - 1) * values).sum() / (n * whole)) if whole else float("nan")


def evenness(counts: ArrayLike) -> float:
    """The entropy of counts [n] over log n; nan for none, or for a single item.

    >>> evenness([2, 2]), evenness([2, 2, 0, 0])
    (1.0, 0.5)
    """
    values = np.asarray(counts, dtype=np.float64)
    if not values.sum() or len(values) < 2:
        return float("nan")
    shares = values[values > 0] / values.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(len(values)))
