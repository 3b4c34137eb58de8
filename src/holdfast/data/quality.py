"""Which self-made rows are worth replaying: not too short, not repeating themselves, not the oddest ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.data.rows import Row, Rows, learnt
from holdfast.data.splitting import distinct

REPETITION = 0.5
"""More repetition than this is a loop; running English text of 128 tokens has less than 0.1."""

SHORTEST = 4
"""Fewer learnt tokens than these say nothing."""

ODD = 0.05
"""The share of rows, the least likely ones, in which a model most often lost its thread."""


def repetition(ids: Sequence[int], n: int = 4) -> float:
    """The share of a row's n-grams that stood in it before, in [0, 1].

    seq-rep-n of Welleck et al. (2019), arXiv:1908.04319.
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def sound(rows: Sequence[Row], most: float = REPETITION, shortest: int = SHORTEST) -> Rows:
    """The rows without near-identical ones, loops and scraps."""
    kept = [row for row in rows if learnt(row) >= shortest and repetition(row["input_ids"]) <= most]
    return distinct(kept)


def usual(rows: Sequence[Row], losses: Tensor, odd: float = ODD) -> Rows:
    """The rows without the share `odd` that has the highest losses [rows]; what is not a number is the highest."""
    order = losses.nan_to_num(nan=torch.inf).argsort(stable=True)
    kept = sorted(order[: len(rows) - int(odd * len(rows))].tolist())
    return [rows[i] for i in kept]
