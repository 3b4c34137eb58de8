"""Incremental: weights move every n steps by all that came between."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput
from holdfast.rule import During
from holdfast.strategies.frozen import Frozen
from holdfast.strategies.incremental import Incremental
from holdfast.strategies.selective import Selective
from tests.strategies.hand import RATE, by_hand, gradients, step, values
from tests.test_every_rule import batches, same, started, trained, weights


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3))
def test_under_sgd_n_steps_are_one_on_the_sum_of_their_gradients(n: int, rounds: int) -> None:
    parts, whole = by_hand([Incremental(n)]), by_hand([])
    for turn in range(rounds):
        made = [gradients(parts, 10 * turn + i) for i in range(n)]
        moved = [step(parts, 10 * turn + i) for i in range(n)]
        whole.advance(gradients={name: torch.stack([g[name] for g in made]).sum(0) for name in made[0]})
        assert [bool(m) for m in moved] == [False] * (n - 1) + [True]
    assert all(torch.allclose(v, values(whole)[name], atol=1e-6) for name, v in values(parts).items())


def test_one_large_batch_is_n_small_ones() -> None:
    small, large = (by_hand(rules) for rules in ([Incremental(3)], []))
    three = batches(3)
    for batch in three:
        small.advance(batch)
    large.optimizer.param_groups[0]["lr"] = 3 * RATE  # the window's loss is the mean of the three
    large.advance(three)
    assert all(torch.allclose(v, values(large)[name], atol=1e-6) for name, v in values(small).items())


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_every_step_is_no_rule(kind: str) -> None:
    assert same(trained(kind, [Incremental(1)]), trained(kind, []))


def test_what_is_pending_at_the_end_is_applied() -> None:
    run = by_hand([Incremental(4)])
    before, made = values(run), [gradients(run, i) for i in range(2)]
    for i in range(2):
        assert not step(run, i)
    run.end()
    for name, value in values(run).items():
        assert torch.allclose(value, before[name] - RATE * (made[0][name] + made[1][name]), atol=1e-7)


def test_the_rest_does_not_move_what_is_frozen_by_then() -> None:
    run = started("llama", [Incremental(4), During(1, 10, Frozen("layers(0:1)"))])
    before = weights(run)
    for batch in batches(2):
        run.advance(batch)
    run.end()
    lower = {n for n, p in run.params.items() if p.layer == 0}
    assert all(torch.equal(t, before[n]) == (n in lower) for n, t in weights(run).items())


@pytest.mark.parametrize("first", [True, False])
def test_masks_hold_for_what_waits_wherever_they_stand(first: bool) -> None:
    mask, wait = Selective(score=None, by="element"), Incremental(3)
    run = by_hand([mask, wait] if first else [wait, mask], torch.optim.AdamW, weight_decay=0.1)
    mask.choose(gradients(run, 99))
    before, masks = values(run), dict(mask._masks)
    for seed in range(5):
        step(run, seed)
    run.end()
    for name, value in values(run).items():
        assert torch.equal(value[~masks[name]], before[name][~masks[name]])


def test_a_number_of_steps_is_at_least_one() -> None:
    with pytest.raises(BadInput, match="at least 1"):
        Incremental(0)
