"""Unfreezing: from the top down, a stage every n steps, from the number of steps alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput
from holdfast.params.depth import below_top
from holdfast.strategies.unfreezing import Unfreezing
from tests.models import LAYERS
from tests.strategies.hand import by_hand, step


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, LAYERS + 1), st.integers(0, 14))
def test_what_moves_is_what_has_thawed_in_a_resumed_run_too(every: int, layers: int, start: int) -> None:
    run = by_hand([Unfreezing(every, layers)])
    run.step = start
    thawed = layers * (1 + start // every)
    assert step(run, 0) == {n for n, p in run.params.items() if below_top(p) <= thawed}


def test_stages_open_one_after_another_and_the_embedding_last() -> None:
    run = by_hand([Unfreezing(every=2)])
    counts = [len(step(run, seed)) for seed in range(8)]
    assert counts == sorted(counts) and counts[0] == counts[1] < counts[2] == counts[3] < counts[4]
    assert counts[-1] == len(run.tensors)
    embedding = "model.embed_tokens.weight"
    assert embedding in run.tensors and embedding not in step(by_hand([Unfreezing(every=2)]), 0)


def test_what_is_frozen_has_no_optimiser_state() -> None:
    run = by_hand([Unfreezing(every=5)], torch.optim.AdamW)
    step(run, 0)
    assert {n for n, t in run.tensors.items() if not run.optimizer.state.get(t)} == run.held != frozenset()


def test_stages_need_steps() -> None:
    with pytest.raises(BadInput, match="every >= 1"):
        Unfreezing(every=0)
