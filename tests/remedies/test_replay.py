"""Replay mixes old rows in at the stated share, without replacement, and marks them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tests.test_every_rule as contract
from holdfast._errors import BadInput, UnmatchedSelect, Unsupported
from holdfast.evaluation.loss import sequence_losses
from holdfast.remedies.buffer import Reservoir
from holdfast.remedies.replay import Replay
from holdfast.rule import REPLAYED, Batch
from holdfast.run import Run
from tests.models import quickly
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


def old_rows(rule: Replay, steps: int, **given: Any) -> list[int]:
    """How many old rows came in each step."""
    run = started("llama", [rule], **given)
    found = []
    for batch in batches(steps):
        marks = run.batch([batch])[0].get(REPLAYED)
        found.append(0 if marks is None else int(marks.sum()))
        run.after()
    return found


def test_a_schedule_says_the_share_of_each_step() -> None:
    assert old_rows(Replay(ROWS[:8], {"periodic": {"share": 0.5, "every": 4, "burst": 2}}), 8) == [0, 0, 4, 4] * 2
    falling = old_rows(Replay(ROWS[:8], {"linear": {"start": 0.5, "end": 0.0}}), 12, total=12)
    assert falling[0] == 4 and falling[-1] <= 1 and sorted(falling, reverse=True)[:4] == falling[:4]
    own = Replay(ROWS[:8], lambda step, total: 0.5 if step == total - 1 else 0.0)
    assert old_rows(own, 5, total=5) == [0, 0, 0, 0, 4]


def test_a_governor_can_move_the_share() -> None:
    rule = Replay(ROWS[:8], {"governed": {"start": 0.2, "most": 0.5}})
    assert rule.strength == 1.0 and Replay(ROWS[:8], 0.2).strength is None
    run = started("llama", [rule])
    counts = []
    for strength in (1.0, 2.0, 100.0, 0.0):
        rule.strength = strength
        marks = [run.batch([batch])[0].get(REPLAYED) for batch in batches(9)]
        counts.append(sum(0 if m is None else int(m.sum()) for m in marks))
    assert counts == [pytest.approx(9, abs=1), pytest.approx(24, abs=1), pytest.approx(36, abs=1), 0]


def test_a_schedule_without_the_number_of_steps_says_so() -> None:
    with pytest.raises(BadInput, match="total"):
        started("llama", [Replay(ROWS[:8], "cosine")])
    with pytest.raises(BadInput, match="part of the batch"):
        old_rows(Replay(ROWS[:8], lambda step, total: 1.5), 1, total=5)


def test_earlier_tasks_are_replayed_from_their_reservoir(tmp_path: Path) -> None:
    plain, shelved = Reservoir(6), Reservoir(6, folder=tmp_path, memory=0)
    for buffer in (plain, shelved):
        buffer.add("a", ROWS[:8])
        buffer.add("b", ROWS[8:16])
    drawn = []
    for buffer in (plain, shelved):
        run = started("llama", [Replay({"tasks": buffer, "text": ROWS[16:20]}, 0.5)])
        drawn.append([run.batch([batch])[0]["input_ids"] for batch in batches(5)])
    assert all(map(torch.equal, *drawn))


@pytest.mark.parametrize("sources", [False, True])
def test_the_journal_follows_the_loss_of_each_source(sources: bool) -> None:
    buffer = Reservoir(8)
    buffer.add("a", ROWS[:4])
    buffer.add("b", ROWS[4:8])
    given = {"tasks": buffer, "text": ROWS[8:12]}
    rule = Replay(given if sources else ROWS[:4], 0.5, look=2)
    run = started("llama", [rule])
    for batch in batches(4):
        run.advance(batch)
    names = ["tasks/a", "tasks/b", "text"] if sources else ["replay"]
    lines = [line for line in run.journal if line["kind"] == "replay"]
    assert [(line["step"], line["text"]) for line in lines] == [(step, name) for step in (2, 4) for name in names]
    rows = {"tasks/a": buffer.parts["a"], "tasks/b": buffer.parts["b"], "text": ROWS[8:12], "replay": ROWS[:4]}
    for line in lines[-len(names) :]:
        expected = sequence_losses(run.model, list(rows[line["text"]])).mean()
        assert line["loss"] == pytest.approx(expected, abs=1e-6) and line["share"] == 0.5 and line["n"] == 4
    assert [line["text"] for line in run.journal if line["kind"] == "buffer"] == names
    assert not [line for line in quiet_journal() if line["kind"] == "replay"]


def quiet_journal() -> list[dict[str, Any]]:
    run = started("llama", [Replay(ROWS[:8], 0.5, look=0)])
    for batch in batches(2):
        run.advance(batch)
    return run.journal


def gradients(run: Run, window: list[Batch]) -> dict[str, Tensor]:
    """Of the loss and the penalty over a window, as hosts take them."""
    run.model.eval()
    window = run.batch(window)
    count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in window)
    for batch in window:
        outputs = run.model(**{k: v for k, v in batch.items() if k != REPLAYED}, num_items_in_batch=count)
        (outputs.loss + run.penalty(batch, outputs)).backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in run.tensors.items()}
    run.optimizer.zero_grad()
    return found


def one_by_one(run: Run, rows: list[Batch]) -> dict[str, Tensor]:
    """The sum over tokens, row by row."""
    for row in rows:
        tokens = int((row["labels"][:, 1:] != -100).sum())
        (run.model(**row).loss * tokens).backward()
    found = {n: p.grad.clone() for n, p in run.tensors.items() if p.grad is not None}
    run.optimizer.zero_grad()
    return found


@pytest.mark.parametrize("kind", ["llama", "lora"])
@pytest.mark.parametrize("layers", ["everything", "layers(1:)", '"*.up_proj.*"', "layers(0:1)"])
def test_old_rows_reach_the_selected_layers_only(kind: str, layers: str) -> None:
    """Against a loop over single rows: new rows reach everything, old rows what is selected."""
    short = [{"input_ids": r["input_ids"][:7], "labels": [-100] * 3 + r["labels"][3:7]} for r in ROWS[:4]]
    rule = Replay(short, 0.5, layers=layers)
    run = started(kind, [rule])
    window = batches(2)
    found = gradients(run, window)
    single = [{k: v[i : i + 1] for k, v in batch.items()} for batch in window for i in range(4)]
    new = one_by_one(run, single)
    old = one_by_one(run, [{k: torch.tensor([v]) for k, v in row.items()} for row in [*short, *short]])
    tokens, reached = 8 * 11, 0
    for name, param in run.params.items():
        inside = rule.layers is not None and rule.layers(param)
        reached += inside
        expected = (new[name] + old[name] * inside) / tokens
        assert torch.allclose(found[name], expected, atol=1e-5, rtol=1e-4), name
        assert float(old[name].abs().max()) > 1e-3
    assert reached > 0 and (reached < len(run.params)) == (layers != "everything")


def test_nothing_is_kept_for_the_backward_pass_below_the_selected_layers() -> None:
    run = started("llama", [Replay(ROWS[:4], 0.5, layers="layers(2:)")])
    run.batch(batches(1))
    penalty = run.penalty(batches(1)[0], None)
    assert isinstance(penalty, Tensor)
    reached = torch.autograd.grad(penalty, list(run.tensors.values()), allow_unused=True)
    names = {name for name, gradient in zip(run.tensors, reached, strict=True) if gradient is not None}
    assert names == {name for name, param in run.params.items() if param.layer == 2}


VARIANTS: dict[str, Any] = {
    "periodic": lambda: [Replay(ROWS[:8], {"periodic": {"share": 0.5, "every": 3, "burst": 2}})],
    "increase": lambda: [Replay(ROWS[:8], 0.34, draw={"increase": {"refresh": 2, "candidates": 5}})],
    "loss": lambda: [Replay(ROWS[:8], 0.34, draw={"loss": {"refresh": 2, "uniform": 0.0}}, look=2)],
    "layers": lambda: [Replay(ROWS[:8], 0.34, layers="layers(1:) | norm")],
    "governed": lambda: [Replay(ROWS[:8], {"governed": {"start": 0.34}})],
}


@pytest.mark.parametrize("kind", quickly(["llama"], ["llama", "lora"]))
@pytest.mark.parametrize("name", quickly(["layers", "loss"], sorted(VARIANTS)))
def test_every_variant_keeps_the_contract(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant: dict[str, Any] = {name: VARIANTS[name]}
    monkeypatch.setattr(contract, "EXAMPLES", variant)
    if kind == "lora" and name == "layers":
        variant[name] = lambda: [Replay(ROWS[:8], 0.34, layers="layers(1:)")]
    contract.test_weights_stay_finite_and_runs_repeat(name, kind)
    contract.test_a_restored_snapshot_replays_the_same_batches_bit_for_bit(name, kind, 3)
    contract.test_a_resumed_run_equals_the_uninterrupted_one(name, kind, tmp_path)
    contract.test_nothing_is_left_behind(name, kind, True)
    if name == "governed":
        contract.test_strength_zero_is_the_list_without_the_rule(name, kind)


def test_layers_that_cannot_be_kept_apart_are_said() -> None:
    with pytest.raises(BadInput, match="labels: false"):
        Replay(ROWS[:4], 0.5, labels=False, layers="mlp")
    with pytest.raises(UnmatchedSelect):
        started("llama", [Replay(ROWS[:4], 0.5, layers="layers(9:)")])
    assert "penalty" not in Replay(ROWS[:4], 0.5).hooks() and "penalty" in Replay(ROWS[:4], 0.5, layers="mlp").hooks()
    run = started("llama", [])
    run.model.activation_checkpointing_enable()
    with pytest.raises(Unsupported, match="checkpointing"):
        Replay(ROWS[:4], 0.5, layers="mlp").begin(run)
