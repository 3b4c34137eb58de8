"""How varied the rows of a buffer are: a few figures that show one-sided, repeated or machine-made text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from holdfast.data.rows import Row
from holdfast.data.splitting import fresh


@dataclass(frozen=True)
class Diversity:
    """Figures of some rows.

    `vocabulary` counts different tokens, `entropy` is that of single tokens in nats. `distinct` is the share of
    different ones among all pairs of neighbouring tokens, Li et al. (2016), arXiv:1510.03055 (it falls with the number
    of tokens: compare buffers of one size). `repeated` is the share of rows that are nearly the same as an earlier one.
    """

    rows: int
    tokens: int
    vocabulary: int
    entropy: float
    distinct: float
    repeated: float


def diversity(rows: Sequence[Row]) -> Diversity:
    """How varied the rows are; all figures are 0 where there is nothing to look at."""
    ids = [row["input_ids"] for row in rows]
    counts = Counter(token for row in ids for token in row)
    pairs = Counter(pair for row in ids for pair in pairwise(row))
    tokens = counts.total()
    entropy = sum(n / tokens * math.log(tokens / n) for n in counts.values())
    return Diversity(
        rows=len(ids),
        tokens=tokens,
        vocabulary=len(counts),
        entropy=round(entropy, 4),
        distinct=round(len(pairs) / max(1, pairs.total()), 4),
        repeated=round((len(ids) - len(fresh(ids))) / max(1, len(ids)), 4),
    )


def spread(total: int, most: int) -> Iterator[int]:
    """At most so many places, evenly over the whole."""
    return (i * total // min(total, most) for i in range(min(total, most)))
