"""Schedules of the share are the formulas of the literature, and refuse what is no share."""

from __future__ import annotations

import math

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.remedies.schedules import Cosine, Governed, Linear, Periodic, average, schedule


def test_the_line_falls_to_a_fifth_of_where_it_began() -> None:
    line = schedule("linear")
    assert line == Linear()
    for step in (0, 30, 100, 130):
        progress = min(1.0, step / 100)
        assert callable(line) and line(step, 100) == pytest.approx(0.2 * (1 - 0.8 * progress))


def test_the_cosine_is_that_of_annealing() -> None:
    wave = schedule({"cosine": {"start": 0.3, "end": 0.1}})
    assert wave == Cosine(0.3, 0.1)
    for step in (0, 25, 50, 100, 130):
        progress = min(1.0, step / 100)
        assert callable(wave) and wave(step, 100) == pytest.approx(0.1 + 0.2 * (1 + math.cos(math.pi * progress)) / 2)


def test_bursts_come_at_the_end_of_each_period() -> None:
    bursts = Periodic(0.5, every=5, burst=2)
    assert [bursts(step, 0) for step in range(10)] == [0, 0, 0, 0.5, 0.5] * 2


def test_a_governor_moves_the_share_up_to_a_bound() -> None:
    governed = Governed(0.1, most=0.4)
    assert [governed.at(strength) for strength in (0.0, 0.5, 2.0, 100.0)] == [0.0, 0.05, 0.2, 0.4]


def test_a_share_or_a_function_of_ones_own_is_taken_as_it_is() -> None:
    own = lambda step, total: step / total / 2  # noqa: E731
    assert schedule(0.25) == 0.25 and schedule(own) is own


def test_the_average_is_the_old_rows_for_each_new_one() -> None:
    assert average(0.25, 10) == pytest.approx(1 / 3)
    assert average({"periodic": {"share": 0.5, "every": 10, "burst": 2}}, 100) == pytest.approx(0.2)
    line = [0.2 * (1 - 0.8 * step / 50) for step in range(50)]
    assert average("linear", 50) == pytest.approx(sum(s / (1 - s) for s in line) / 50)
    assert average("linear", 0) == 0


@pytest.mark.parametrize("given", [1.0, -0.1, True, {"linear": {"start": 1.0}}, {"periodic": {"share": 2}}])
def test_what_is_no_share_is_said(given: object) -> None:
    with pytest.raises(BadInput, match="part of the batch"):
        schedule(given)  # type: ignore[arg-type]


def test_what_is_no_schedule_is_said() -> None:
    with pytest.raises(UnknownName, match="linear"):
        schedule("lineal")
    with pytest.raises(UnknownName, match="start"):
        schedule({"linear": {"stat": 0.1}})
    with pytest.raises(BadInput, match="one name and its settings"):
        schedule({"linear": {}, "cosine": {}})
    with pytest.raises(BadInput, match="one name and its settings"):
        schedule({"linear": 0.3})
    with pytest.raises(BadInput, match="burst <= every"):
        schedule({"periodic": {"every": 2, "burst": 3}})
