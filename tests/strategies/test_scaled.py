"""Scaled: one factor for what it is told."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast._errors import BadInput
from holdfast.params.select import path
from holdfast.rule import Within
from holdfast.strategies.scaled import Scaled
from tests.strategies.hand import RATE, by_hand, gradients, values


def test_what_is_selected_moves_by_the_factor_and_the_rest_as_ever() -> None:
    run = by_hand([Within(path("*.up_proj.*"), Scaled(4.0))])
    before, made = values(run), gradients(run, 1)
    run.advance(gradients=made)
    for name, value in values(run).items():
        factor = 4.0 if "up_proj" in name else 1.0
        assert torch.allclose(before[name] - value, RATE * factor * made[name], atol=1e-7)


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf])
def test_a_factor_is_a_number_of_0_or_more(factor: float) -> None:
    with pytest.raises(BadInput, match="factor"):
        Scaled(factor)
