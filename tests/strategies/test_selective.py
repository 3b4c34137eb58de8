"""Selective: the most important move and everything else stays bit for bit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput, UnknownName
from holdfast.data.rows import collate
from holdfast.params.importance import fisher, per_tensor
from holdfast.strategies.selective import Selective, _packed, _unpacked
from tests.strategies.hand import by_hand, gradients, step, values
from tests.test_every_rule import ROWS, batches, started, weights


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 1.0), st.integers(0, 5))
def test_by_tensor_the_top_share_moves(top: float, seed: int) -> None:
    rule = Selective(score=None, top=top)
    run = by_hand([rule], torch.optim.AdamW, weight_decay=0.1)
    importance = {n: g.square() for n, g in gradients(run, seed).items()}
    rule.choose(importance)
    ordered = sorted(importance, key=lambda n: -float(importance[n].mean(dtype=torch.float64)))
    for turn in range(2):
        assert step(run, turn) == set(ordered[: math.ceil(top * len(ordered) - 1e-9)])


@settings(max_examples=15, deadline=None)
@given(st.floats(0.001, 1.0), st.integers(1, 6))
def test_by_element_exactly_the_top_share_moves_ties_and_all(top: float, levels: int) -> None:
    rule = Selective(score=None, top=top, by="element")
    run = by_hand([rule], torch.optim.AdamW, weight_decay=0.1)
    importance = {n: (g.abs() * levels).ceil() for n, g in gradients(run, 7).items()}  # few different scores
    rule.choose(importance)
    before = values(run)
    for seed in range(3):
        step(run, seed)
    after = values(run)
    moved = torch.cat([(after[n] != before[n]).flatten() for n in after])
    scores = torch.cat([importance[n].flatten() for n in after])
    assert int(moved.sum()) == math.ceil(top * len(scores) - 1e-9)
    assert moved.all() or scores[moved].min() >= scores[~moved].max()


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 5), (0.5, 3), (0.51, 2), (1.0, 1)])
def test_a_threshold_is_a_rank(threshold: float, count: int) -> None:
    scores = {f"{i}": torch.tensor([float(i)]) for i in range(5)}
    tensors, elements = (Selective(score=None, threshold=threshold, by=by) for by in ("tensor", "element"))  # type: ignore[arg-type]
    tensors.choose(scores)
    elements.choose(scores)
    assert len(scores) - len(tensors._held) == sum(int(m.sum()) for m in elements._masks.values()) == count


def test_scores_come_from_the_source_before_the_first_step() -> None:
    run = started("llama", [Selective(ROWS[:8], "fisher", top=0.25)])
    scores = per_tensor(fisher(run.model, [collate(ROWS[:8], 0)], paths=list(run.tensors)))
    before = weights(run)
    run.advance(batches(1)[0])
    moved = {n for n, t in weights(run).items() if not torch.equal(t, before[n])}
    assert moved == set(sorted(scores, key=lambda n: -scores[n])[: len(moved)]) and len(moved) == -(-len(scores) // 4)
    assert all(not run.optimizer.state.get(t) for n, t in run.tensors.items() if n not in moved)


def test_it_is_estimated_again_where_asked() -> None:
    rule = Selective(ROWS[:4], "gradient", top=0.3, by="element", every=2)
    run = started("llama", [rule])
    masks = [rule._masks]
    for batch in batches(5):
        run.advance(batch)
        masks.append(rule._masks)
    renewed = [after is not before for before, after in itertools.pairwise(masks)]
    assert renewed == [False, True, False, True, False]
    assert any(not torch.equal(mask, masks[0][name]) for name, mask in masks[-1].items())


@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_scores_of_the_weights_alone_need_no_text(score: str) -> None:
    run = started("llama", [Selective(score=score, top=0.3, every=1)])
    sizes = []
    for batch in batches(3):
        before = weights(run)
        run.advance(batch)
        sizes.append(sum(not torch.equal(t, before[n]) for n, t in weights(run).items()))
    count = math.ceil(0.3 * len(run.tensors))
    assert sizes == [len(run.tensors) if score == "movement" else count, count, count]  # at first nothing has moved


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_masks_are_packed_and_unpacked(bits: list[bool]) -> None:
    mask = torch.tensor(bits)
    assert torch.equal(_unpacked(_packed(mask), mask), mask) and _packed(mask).numel() == -(-len(bits) // 8)


@pytest.mark.parametrize("given_", [{"top": 0}, {"top": 1.5}, {"threshold": 2}, {"by": "row"}, {"every": 0}])
def test_what_cannot_be_is_said(given_: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        Selective(ROWS, **given_)  # type: ignore[arg-type]


def test_scores_on_text_need_text_and_a_name() -> None:
    with pytest.raises(BadInput, match="give a `source`"):
        started("llama", [Selective()])
    with pytest.raises(UnknownName, match="fisher"):
        started("llama", [Selective(ROWS, "fischer")])
