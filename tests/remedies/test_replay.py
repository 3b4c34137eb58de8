"""Replay mixes old rows in at the stated share, without replacement, and marks them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from holdfast._errors import BadInput, Unsupported
from holdfast.remedies.replay import Replay
from holdfast.rule import REPLAYED
from tests.test_every_rule import ROWS, batches, started


@pytest.mark.parametrize("share", [0.05, 0.25, 1 / 3, 0.5])
def test_the_share_holds_over_many_batches(share: float) -> None:
    run = started("llama", [Replay(ROWS[:7], share)])
    marks = torch.cat([run.batch([batch])[0][REPLAYED] for batch in batches(60)])
    assert float(marks.float().mean()) == pytest.approx(share, abs=0.01)


def test_every_old_row_comes_once_before_any_comes_twice() -> None:
    run = started("llama", [Replay(ROWS[:8], 0.5)])
    drawn: list[tuple[int, ...]] = []
    for batch in batches(4):
        mixed = run.batch([batch])[0]
        drawn += [tuple(r) for r in mixed["input_ids"][mixed[REPLAYED]].tolist()]
    assert set(Counter(drawn).values()) == {2}
    assert {tuple(r["input_ids"]) for r in ROWS[:8]} == set(drawn)


def test_new_rows_stay_and_old_ones_carry_no_labels_when_asked() -> None:
    run = started("llama", [Replay(ROWS[:8], 0.5, labels=False)])
    batch = batches(1)[0]
    mixed = run.batch([batch])[0]
    assert torch.equal(mixed["input_ids"][:4], batch["input_ids"])
    assert torch.equal(mixed["labels"][:4], batch["labels"])
    assert bool((mixed["labels"][4:] == -100).all())


def test_rows_of_unequal_length_are_padded_and_masked() -> None:
    short = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}]
    run = started("llama", [Replay(short, 0.2, pad_id=9)])
    mixed = run.batch([batches(1)[0]])[0]
    assert mixed["input_ids"].shape == (5, 12)
    assert mixed["input_ids"][4].tolist() == [5, 6, 7] + [9] * 9
    assert mixed["labels"][4].tolist() == [5, 6, 7] + [-100] * 9
    assert mixed["attention_mask"].sum(1).tolist() == [12, 12, 12, 12, 3]


def test_two_sources_both_have_their_rows_marked() -> None:
    run = started("llama", [Replay(ROWS[:4], 0.2), Replay(ROWS[4:8], 0.5)])
    mixed = run.batch([batches(1)[0]])[0]
    assert mixed[REPLAYED].tolist() == [False] * 4 + [True] * 6


def test_what_cannot_be_mixed_is_said() -> None:
    with pytest.raises(BadInput, match="share"):
        Replay(ROWS, 1.0)
    with pytest.raises(BadInput, match="no rows"):
        Replay([], 0.5)
    run = started("llama", [Replay(ROWS[:4], 0.5)])
    with pytest.raises(Unsupported, match="position_ids"):
        run.batch([{**batches(1)[0], "position_ids": torch.zeros(4, 12, dtype=torch.long)}])
