"""Statistics of examples: sums that give the figure, however they are resampled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.scored import Scored, of_losses, ratio, shares


def test_shares_leave_out_what_has_nothing_to_score() -> None:
    found = shares([1.0, math.nan, 0.0, 0.5])
    assert found.figure == pytest.approx(0.5)
    assert found.each().tolist()[:1] + found.each().tolist()[2:] == [1.0, 0.0, 0.5]
    assert math.isnan(found.each()[1])
    assert len(found) == 4


def test_only_right_and_wrong_is_binary() -> None:
    assert shares([1, 0, 1]).binary
    assert not shares([1, 0.5]).binary
    assert not shares([1, 0], unit="words").binary
    assert not Scored(np.ones((2, 2)), lambda sums: sums[..., 0]).binary


def test_losses_are_weighed_by_tokens_and_added_up_by_document() -> None:
    losses = SequenceLosses(
        torch.tensor([3.0, 5.0, 2.0], dtype=torch.float64), torch.tensor([2, 1, 4]), torch.tensor([0, 1, 0])
    )
    found = of_losses(losses)
    assert found.figure == pytest.approx(10 / 7)
    assert found.items().stats.tolist() == [[5.0, 6.0], [5.0, 1.0]]
    assert found.items().figure == pytest.approx(found.figure)
    assert found.higher is False


def test_nothing_weighed_is_not_a_number() -> None:
    assert np.isnan(ratio(np.zeros(2)))
    assert math.isnan(shares([math.nan]).figure)
