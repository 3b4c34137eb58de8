"""Gradual: the rate follows its schedule of the number of updates, whatever the order of parameters."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput, UnknownName
from holdfast.rule import Rule
from holdfast.run import Run
from holdfast.strategies.gradual import Gradual, schedules
from tests.models import build
from tests.strategies.hand import RATE, by_hand, gradients, step, values


@given(st.sampled_from(sorted(schedules)), st.integers(1, 60), st.floats(0, 1))
def test_shares_fall_from_one_to_the_floor_and_stay_there(schedule: str, over: int, floor: float) -> None:
    rule = Gradual(schedule, over, floor)
    shares = [rule.share(n) for n in range(over + 3)]
    assert shares[0] == pytest.approx(1) and shares[-3:] == pytest.approx([floor] * 3)
    assert all(b <= a + 1e-12 and floor - 1e-12 <= b for a, b in itertools.pairwise(shares))


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(sorted(schedules)), st.integers(0, 3))
def test_every_tensor_of_a_step_moves_at_the_same_share(schedule: str, done: int) -> None:
    rule = Gradual(schedule, over=4, floor=0.25)
    run = by_hand([rule])
    for seed in range(done):
        step(run, seed)
    before, made = values(run), gradients(run, 9)
    run.advance(gradients=made)
    for name, value in values(run).items():
        assert torch.allclose(value, before[name] - RATE * rule.share(done) * made[name], atol=1e-7)


def test_the_order_of_parameters_changes_no_bit() -> None:
    def trained(backwards: bool) -> dict[str, torch.Tensor]:
        model = build("llama")
        named = list(model.named_parameters())
        optimizer = torch.optim.AdamW([p for _, p in (named[::-1] if backwards else named)], lr=RATE)
        rules: list[Rule] = [Gradual("cosine", over=5)]
        run = Run(model, optimizer, rules, seed=0)
        run.begin()
        for seed in range(5):
            step(run, seed)
        return values(run)

    ahead, back = trained(False), trained(True)
    assert all(torch.equal(ahead[name], back[name]) for name in ahead)


def test_nothing_moves_once_it_has_decayed_to_nothing() -> None:
    run = by_hand([Gradual(over=3)])
    assert [bool(step(run, seed)) for seed in range(5)] == [True, True, True, False, False]


@pytest.mark.parametrize(("given_", "error"), [({"schedule": "cosin"}, UnknownName), ({"over": 0}, BadInput)])
def test_what_cannot_be_is_said(given_: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Gradual(**given_)  # type: ignore[arg-type]
