"""What is left out of self-made text: loops, scraps, copies, and the oddest rows."""

from __future__ import annotations

import pytest
import torch

from holdfast.data.quality import repetition, sound, usual
from holdfast.data.rows import Row


def row(*ids: int) -> Row:
    return {"input_ids": list(ids), "labels": list(ids)}


def test_repetition_is_the_share_of_n_grams_that_came_before() -> None:
    assert repetition(list(range(20))) == 0
    assert repetition([7] * 13) == pytest.approx(9 / 10)
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([1, 2, 3]) == 0 and repetition([1, 2, 1, 2], n=2) == pytest.approx(1 / 3)


def test_loops_scraps_and_copies_are_left_out() -> None:
    good, other = row(*range(30)), row(*range(50, 80))
    scrap = {"input_ids": list(range(30, 60)), "labels": [-100] * 27 + [57, 58, 59]}
    assert sound([good, row(*[1, 2] * 15), scrap, good, other]) == [good, other]
    assert sound([scrap], shortest=3) == [scrap]


def test_the_oddest_rows_are_left_out_and_the_others_keep_their_order() -> None:
    rows = [row(i) for i in range(10)]
    losses = torch.tensor([1.0, 9.0, 2.0, 3.0, float("nan"), 4.0, 0.5, 8.0, 2.0, 2.0])
    assert usual(rows, losses, 0.2) == [rows[i] for i in (0, 2, 3, 5, 6, 7, 8, 9)]
    assert usual(rows, losses, 0.05) == rows
    assert usual([], torch.empty(0)) == []
