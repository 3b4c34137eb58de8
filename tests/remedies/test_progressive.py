"""A strength that grows, beside a governor that turns it."""

from __future__ import annotations

import pytest

from holdfast._errors import BadInput
from holdfast.remedies.distill import Distill
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.progressive import Progressive
from holdfast.remedies.replay import Replay
from holdfast.strategies.frozen import Frozen
from tests.test_every_rule import ROWS, batches, drop_alike, same, started, trained, weights


def test_the_share_grows_evenly_and_then_stays() -> None:
    rule = Progressive(4, L2SP(10.0), first=0.2)
    assert [rule.share(step) for step in (0, 1, 2, 4, 9)] == pytest.approx([0.2, 0.4, 0.6, 1.0, 1.0])


def test_each_step_is_that_of_the_rule_at_its_share() -> None:
    by_hand, wrapped = L2SP(0.0001), started("llama", [Progressive(4, L2SP(80.0))])
    other = started("llama", [by_hand])
    for step, batch in enumerate(batches(6)):
        by_hand.strength = 80.0 * min(step / 4, 1.0) or 1e-30
        drop_alike(wrapped, batch)
        drop_alike(other, batch)
    assert same(weights(wrapped), weights(other))


def test_a_penalty_grows_too() -> None:
    rules = [Replay(ROWS[:8], 0.34, labels=False), Progressive(2, Distill(3.0))]
    run = started("llama", rules)
    found = []
    for batch in batches(4):
        run.advance(batch)
        found.append(float(run.penalties["distill"]) / rules[1].rule.divergence)  # type: ignore[attr-defined]
    assert found == pytest.approx([0.0, 1.5, 3.0, 3.0], rel=1e-5)


def test_a_governor_turns_the_full_strength() -> None:
    rule = Progressive(10, L2SP(10.0))
    run = started("llama", [rule])
    run.advance(batches(1)[0])
    assert rule.strength is not None
    rule.strength *= 2
    run.advance(batches(1)[0])
    assert rule.strength == rule.rule.strength == 20.0
    snapshot = run.snapshot()
    rule.strength = 5.0
    run.restore(snapshot)
    assert rule.strength == 20.0


def test_what_has_come_to_its_full_strength_is_the_rule() -> None:
    assert same(trained("llama", [L2SP(10.0)]), trained("llama", [Progressive(1, L2SP(10.0), first=1.0)]))


def test_what_has_no_strength_is_refused() -> None:
    with pytest.raises(BadInput, match="has none"):
        Progressive(5, Frozen())
    with pytest.raises(BadInput, match="at least one step"):
        Progressive(0, L2SP())


def test_a_replay_of_governed_share_grows_too() -> None:
    rule = Progressive(100, Replay(ROWS, share={"governed": {"start": 0.5}}))
    run = started("llama", [rule])
    (batch,) = run.batch(batches(1))
    assert len(batch["input_ids"]) == len(batches(1)[0]["input_ids"])
