"""The learning rate by itself: inside its bounds whatever comes, and turned in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast._errors import BadInput
from holdfast.llm import AdaptiveLearningRate
from holdfast.llm.rules import LOOK_BACK


@given(st.lists(st.floats(-1e3, 1e3), max_size=80), st.booleans())
def test_it_stays_in_its_bounds(metrics: list[float], higher: bool) -> None:
    rate = AdaptiveLearningRate(1e-4, 5e-5, 2e-4, higher_is_better=higher)
    assert all(5e-5 <= rate.update(metric) <= 2e-4 for metric in metrics)


@given(st.integers(3, 60), st.floats(1e-3, 1e3))
def test_it_has_turned_within_its_window_after_a_change_of_trend(rising: int, step: float) -> None:
    rate = AdaptiveLearningRate()
    for i in range(rising):
        rate.update(i * step)
    rates = [rate.update((rising - i) * step) for i in range(2, LOOK_BACK + 3)]
    assert rates[-1] < rates[-2]


def test_a_loss_counts_the_other_way() -> None:
    score, loss = AdaptiveLearningRate(), AdaptiveLearningRate(higher_is_better=False)
    for i in range(6):
        up, down = score.update(i), loss.update(i)
    assert up > 1e-4 > down


def test_reset_forgets_everything() -> None:
    rate = AdaptiveLearningRate(3e-4)
    for i in range(9):
        rate.update(i)
    rate.reset()
    assert rate.get_lr() == 3e-4 == rate.update(5.0)


def test_a_first_rate_outside_the_bounds_is_refused() -> None:
    with pytest.raises(BadInput, match="min_lr <= initial_lr <= max_lr"):
        AdaptiveLearningRate(1e-2)
