"""Layerwise: one factor for each stage below the head."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput
from holdfast.strategies.layerwise import Layerwise
from tests.models import LAYERS
from tests.strategies.hand import RATE, by_hand, gradients, values

STAGES = {"model.norm.weight": 0, "model.embed_tokens.weight": LAYERS + 1} | {
    f"model.layers.{i}.mlp.up_proj.weight": LAYERS - i for i in range(LAYERS)
}


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 1.0))
def test_a_tensor_moves_by_decay_to_the_power_of_its_stage(decay: float) -> None:
    run = by_hand([Layerwise(decay)])
    before, made = values(run), gradients(run, 1)
    run.advance(gradients=made)
    for name, stage in STAGES.items():
        moved = before[name] - values(run)[name]
        assert torch.allclose(moved, RATE * decay**stage * made[name], atol=1e-7)


def test_a_decay_of_one_changes_no_bit() -> None:
    plain, ruled = by_hand([], torch.optim.AdamW), by_hand([Layerwise(1.0)], torch.optim.AdamW)
    for run in (plain, ruled):
        for seed in range(3):
            run.advance(gradients=gradients(run, seed))
    assert all(torch.equal(value, values(ruled)[name]) for name, value in values(plain).items())


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_a_decay_is_a_factor(decay: float) -> None:
    with pytest.raises(BadInput, match="0 < decay <= 1"):
        Layerwise(decay)
