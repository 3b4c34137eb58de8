"""Looks: what they may cost, what they say, when they give alarm, and what they foretell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import linregress

from holdfast.base import Base, load_base
from holdfast.data.rows import Row
from holdfast.evaluation.looks import FEWEST, FORWARD, WISHED, Looks, Seen, forecast


def rows(n: int, length: int = 32) -> list[Row]:
    drawn = torch.randint(3, 500, (n, length), generator=torch.Generator().manual_seed(n))
    return [{"input_ids": row, "labels": row} for row in drawn.tolist()]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def cost(looks: Looks, tokens: float) -> float:
    """The part of the reckoned work of training that looking adds."""
    assert looks.every is not None
    read = sum(len(row["input_ids"]) for found in looks.texts.values() for row in found)
    return FORWARD * read / (looks.every * tokens)


@pytest.mark.parametrize("tokens", [64, 512, 4096, 65536])
@pytest.mark.parametrize("given", [{}, {"every": 10}, {"rows": 40}])
def test_the_plan_stays_inside_the_share_whatever_is_left_open(tokens: int, given: dict[str, int]) -> None:
    looks = Looks({"new": rows(300)}, {"old": rows(300), "older": rows(300, 64)}, share=0.1, **given)
    line = looks.plan(tokens, 10_000)
    assert line is not None and line[1] == {"every": looks.every, "rows": looks.rows, "share": 0.1}
    assert looks.rows is not None and looks.rows >= FEWEST and looks.plan(tokens, 10_000) is None
    assert all(getattr(looks, name) == value for name, value in given.items())
    if "every" not in given or looks.rows > FEWEST:
        assert cost(looks, tokens) <= 0.1 * 1.001
    if not given and looks.rows > FEWEST:
        assert looks.every == 10_000 // WISHED


def test_a_plan_that_cannot_know_takes_few_rows() -> None:
    looks = Looks({}, {"old": rows(300)})
    looks.plan(0.0, 160)
    assert (looks.every, looks.rows) == (10, 64)


def test_what_is_fixed_is_not_planned() -> None:
    looks = Looks({}, {"old": rows(20)}, every=3, rows=5)
    assert looks.plan(1000, 10) is None and looks.due(3) and not looks.due(2)


def test_a_look_that_takes_too_long_is_made_half_as_often() -> None:
    looks = Looks({}, {"old": rows(20)}, rows=5, share=0.1)
    looks.every, looks.next = 10, 20
    looks.clock.running, looks.clock.looking = 2.0, 0.1
    assert looks.slower() is None
    looks.clock.looking = 0.5
    line = looks.slower()
    assert line is not None and line[0] == "note" and "25%" in line[1]["text"]
    assert looks.every == 20 and looks.next == 30


def test_a_worse_text_gives_one_alarm_and_another_after_it_was_well_again(base: Base) -> None:
    looks = Looks({}, {"old": rows(30)}, every=1, rows=30, margins={"old": 0.05})
    looks.baseline(base.model)
    worse = load_base("tiny").model
    with torch.no_grad():
        for weight in worse.parameters():
            weight.mul_(1.3)
    kinds = [[kind for kind, _ in looks.look(model, step)] for step, model in enumerate([base.model, worse, worse])]
    assert kinds == [["probe"], ["probe", "alarm"], ["probe"]]
    again = [[kind for kind, _ in looks.look(model, step)] for step, model in enumerate([base.model, worse], 3)]
    assert again[0] == ["probe"] and "alarm" in again[1]


def test_a_state_goes_on_as_if_nothing_had_been(base: Base) -> None:
    first = Looks({"new": rows(9)}, {"old": rows(30)}, rows=8)
    first.baseline(base.model)
    first.plan(100, 64)
    for step in range(1, 9):
        first.passed(1e-3 / step, 0.0)
    list(first.look(base.model, 8))
    second = Looks({"new": rows(9)}, {"old": rows(30)}, rows=8)
    second.baseline(base.model)
    second.restore(first.state())
    assert second.state() == first.state()
    assert list(second.look(base.model, 12)) == list(first.look(base.model, 12))


def seen(rises: Sequence[float]) -> Seen:
    return Seen([(10 * i, 8.0 * i, rise, 0.001) for i, rise in enumerate(rises, start=1)])


def test_nothing_is_foretold_from_few_looks() -> None:
    assert forecast(seen([0.1, 0.2, 0.3, 0.4]), 1.0) is None


def test_the_slope_is_that_of_the_last_looks() -> None:
    found = forecast(seen([9.0, 9.0, 0.01, 0.021, 0.029, 0.041, 0.05, 0.06, 0.07, 0.081]), None)
    line = linregress(range(30, 110, 10), [0.01, 0.021, 0.029, 0.041, 0.05, 0.06, 0.07, 0.081])
    assert found is not None and found["slope"] == pytest.approx(100 * line.slope)
    assert found["slope_low"] < found["slope"] < found["slope_high"] and found["crossing"] is None


def test_a_straight_rise_crosses_where_it_will() -> None:
    found = forecast(seen([0.01 * i for i in range(1, 11)]), 0.2)
    assert found is not None and found["crossing"] == pytest.approx(200, rel=0.05)
    assert found["low"] <= found["crossing"] <= found["high"]


def test_what_levels_off_below_the_margin_never_crosses() -> None:
    found = forecast(seen([0.1 * -math.expm1(-i / 2) for i in range(1, 13)]), 0.5)
    assert found is not None and found["crossing"] is None


def test_a_fixed_interval_is_left_alone_by_the_clock() -> None:
    looks = Looks({}, {"old": rows(20)}, every=10, rows=5, share=0.1)
    looks.clock.running, looks.clock.looking = 2.0, 1.0
    assert looks.slower() is None and looks.every == 10


def test_warming_up_does_not_bend_the_axis(base: Base) -> None:
    looks = Looks({}, {"old": rows(8)}, every=1, rows=8)
    looks.baseline(base.model)
    for step in range(1, 11):
        looks.passed(1e-4 * step, 0.0)
        list(looks.look(base.model, step))
    steps = [rate / looks.clock.peak for _, rate, _, _ in looks.seen["old"].looks]
    assert steps == pytest.approx([i * (i + 1) / 20 for i in range(1, 11)])
