"""Frozen: nothing that is selected moves, and a selection that matches nothing is an error."""

from __future__ import annotations

import pytest
import torch

from holdfast._errors import UnmatchedSelect
from holdfast.params.select import component, layers
from holdfast.rule import During, Within
from holdfast.strategies.frozen import Frozen
from tests.test_every_rule import batches, same, started, trained, weights


@pytest.mark.parametrize("select", [None, "everything", component("mlp") | component("norm")])
def test_what_is_selected_stays(select: object) -> None:
    run = started("llama", [Frozen(select)])  # type: ignore[arg-type]
    before = weights(run)
    for batch in batches(4) if select not in (None, "everything") else []:
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
