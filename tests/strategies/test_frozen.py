"""Frozen: nothing that is selected moves, and a selection that matches nothing is an error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import UnknownName, UnmatchedSelect
from holdfast.params.select import component, layers
from holdfast.rule import During, Within
from holdfast.strategies.frozen import Frozen
from tests.strategies.hand import by_hand, step
from tests.test_every_rule import batches, same, started, trained, weights


@pytest.mark.parametrize("select", [None, "everything", component("mlp") | component("norm")])
def test_what_is_selected_stays(select: object) -> None:
    run = started("llama", [Frozen(select)])  # type: ignore[arg-type]
    before = weights(run)
    for batch in batches(4):
        run.advance(batch)
    held = [n for n, p in run.params.items() if select in (None, "everything") or p.component in ("mlp", "norm")]
    assert held and all(torch.equal(before[n], run.tensors[n]) for n in held)
    assert all(not run.tensors[n].requires_grad and run.tensors[n].grad is None for n in held)


def test_unfreezing_in_mid_run_lets_move_again_and_keeps_momentum() -> None:
    run = started("llama", [During(2, 5, Frozen("layers(0:1)"))])
    name = next(n for n, p in run.params.items() if p.layer == 0)
    moved = []
    for batch in batches(7):
        before = run.tensors[name].detach().clone()
        run.advance(batch)
        moved.append(not torch.equal(before, run.tensors[name]))
    assert moved == [True, True, False, False, False, True, True]


def test_a_tied_head_freezes_with_its_embedding() -> None:
    run = started("llama", [Frozen("head")])
    before = weights(run)
    run.advance(batches(1)[0])
    assert torch.equal(before["model.embed_tokens.weight"], run.model.model.embed_tokens.weight)


def test_within_narrows_what_is_held() -> None:
    narrowed = trained("llama", [Within(layers(0, 1), Frozen())])
    assert same(narrowed, trained("llama", [Frozen("layers(0:1)")]))


def test_a_selection_without_a_match_names_the_nearest() -> None:
    with pytest.raises(UnmatchedSelect, match="up_proj"):
        started("llama", [Frozen('"*.upproj.*"')])


def test_debug_says_per_parameter_why_it_does_not_move(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="holdfast"):
        run = started("llama", [Frozen("layers(0:1)")])
    held = [n for n, p in run.params.items() if p.layer == 0]
    assert held and all(f"{name} does not move: a rule holds it" in caplog.text for name in held)


NAMES = ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from(NAMES))), max_size=6))
def test_the_latest_call_counts_for_each_tensor(calls: list[tuple[bool, set[str]]]) -> None:
    rule = Frozen("embedding | layers(0:1)")
    run = by_hand([rule], torch.optim.AdamW, weight_decay=0.1)
    held = {n for n, p in run.params.items() if p.layer == 0 or p.component == "embedding"}
    for number, (freezing, names) in enumerate(calls):
        (rule.freeze if freezing else rule.thaw)(names)
        held = held | names if freezing else held - names
        assert step(run, number) == run.tensors.keys() - held


def test_changes_survive_a_resume_and_go_back_with_a_snapshot() -> None:
    rule = Frozen(["model.norm.weight"])
    run = by_hand([rule])
    snapshot = run.snapshot()
    rule.thaw(["lm_head.weight", "model.norm.weight"])  # lm_head is tied to the embedding
    rule.freeze(["model.layers.0.mlp.up_proj.weight"])
    assert rule.holds(run) == {"model.layers.0.mlp.up_proj.weight"}
    resumed = Frozen(["model.norm.weight"])
    resumed.restore(by_hand([]), {}, rule.state())
    assert resumed.holds(run) == rule.holds(run)
    run.restore(snapshot)
    assert rule.holds(run) == {"model.norm.weight"}


def test_an_empty_list_freezes_nothing_and_unknown_paths_are_named() -> None:
    rule = Frozen([])
    rule.freeze(["model.norm.weight"])
    run = by_hand([rule])
    assert run.held == {"model.norm.weight"}
    with pytest.raises(UnknownName, match=r"model\.norm\.weight"):
        rule.freeze(["model.norm.wieght"])
    with pytest.raises(UnknownName):
        by_hand([Frozen(["nothing like it"])])
    assert by_hand([Frozen([])]).held == frozenset()
