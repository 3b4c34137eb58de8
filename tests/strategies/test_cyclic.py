"""Cyclic: one block at a time, every block in every cycle, and the optimiser remembers one block only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput, UnknownName
from holdfast.params.select import layers
from holdfast.rule import Rule, Within
from holdfast.strategies.cyclic import Cyclic, Order
from holdfast.strategies.frozen import Frozen
from tests.models import build
from tests.strategies.hand import by_hand, step
from tests.test_every_rule import batches, started
from tests.test_training import settings as settings_of
from tests.test_training import trainer


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from(["up", "down", "random"]))
def test_each_block_moves_for_its_steps_and_every_block_once_a_cycle(steps: int, layers: int, order: Order) -> None:
    rule = Cyclic(steps, layers, order)
    run = by_hand([rule], torch.optim.AdamW)
    weight = max(sum(run.tensors[n].numel() for n in block) for block in rule.blocks)
    moved = []
    for seed in range(2 * steps * len(rule.blocks)):
        moved.append(step(run, seed))
        kept = [s for t in run.tensors.values() if (s := run.optimizer.state.get(t))]
        assert sum(s["exp_avg"].numel() for s in kept) <= weight
    turns = moved[::steps]
    assert moved == [block for block in turns for _ in range(steps)]
    count = len(rule.blocks)
    assert set(turns[:count]) == set(turns[count:]) == set(rule.blocks)
    assert sorted(n for block in rule.blocks for n in block) == sorted(run.tensors)


def test_order_is_up_down_or_drawn_from_the_seed() -> None:
    up, down, drawn = (Cyclic(1, 1, order) for order in ("up", "down", "random"))  # type: ignore[arg-type]
    turns = [[step(run, s) for s in range(5)] for run in (by_hand([up]), by_hand([down]))]
    assert "model.embed_tokens.weight" in turns[0][0] and "model.norm.weight" in turns[1][0]
    assert turns[0] == turns[1][::-1]
    run = by_hand([drawn])
    cycles = [[step(run, s) for s in range(5)] for _ in range(6)]
    assert len({tuple(map(sorted, c)).__repr__() for c in cycles}) > 1


def test_within_leaves_the_momentum_of_the_others_alone() -> None:
    run = by_hand([Within(layers(0, 2), Cyclic(2, 1, "up"))], torch.optim.AdamW)
    free = [n for n, p in run.params.items() if p.layer not in (0, 1)]
    for seed in range(5):
        assert set(free) <= step(run, seed)
    assert all(run.optimizer.state[run.tensors[n]]["step"] == 5 for n in free)


def test_a_block_that_something_else_freezes_just_passes() -> None:
    run = started("llama", [Cyclic(1, 1, "up"), Frozen("layers(1:2)")])
    for batch in batches(5):
        run.advance(batch)
    assert run.step == 5 and run.moved == {n for n, p in run.params.items() if p.layer != 1}


def test_a_step_in_which_nothing_may_move_passes_in_a_trainer_too(tmp_path: Path) -> None:
    rules: list[Rule] = [Cyclic(1, 1, "up"), Frozen("layers(1:2)")]
    host = trainer(build("llama"), settings_of(tmp_path, max_steps=5), rules)
    host.train()
    assert host.state.global_step == 5 and host.run.moved == {n for n, p in host.run.params.items() if p.layer != 1}


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(BadInput, match="steps >= 1"):
        Cyclic(0)
    with pytest.raises(UnknownName, match="random"):
        Cyclic(order="randm")  # type: ignore[arg-type]
