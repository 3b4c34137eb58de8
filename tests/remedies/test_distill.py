"""Distillation: the divergence from the base on the tokens that are named, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

import tests.test_every_rule as contract
from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.remedies.distill import Distill
from holdfast.remedies.replay import Replay
from holdfast.remedies.teacher import answered
from holdfast.rule import REPLAYED, Batch, Rule
from holdfast.run import Run
from tests.models import quickly
from tests.test_every_rule import ROWS, batches, model_of, started


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_the_penalty_is_the_mean_divergence_over_replayed_tokens(kind: str) -> None:
    short = [{"input_ids": r["input_ids"][:7], "labels": r["labels"][:7]} for r in ROWS[:8]]
    rule = Distill(3.0)
    run = started(kind, [Replay(short, 0.5), rule])
    for batch in batches(3):
        run.advance(batch)
    base = model_of(kind).eval()
    mixed = run.batch([batches(1, seed=9)[0]])[0]
    inputs = {k: v for k, v in mixed.items() if k not in (REPLAYED, "labels")}
    run.model.eval()
    outputs = run.model(**inputs)
    penalty = rule.penalty(run, mixed, outputs)
    theirs = base(**inputs).logits
    real = mixed["attention_mask"].bool() & mixed[REPLAYED][:, None]
    expected = kl_divergence(Categorical(logits=theirs[real]), Categorical(logits=outputs.logits[real])).mean()
    assert penalty is not None
    assert float(penalty) == pytest.approx(3.0 * float(expected), rel=1e-3)
    assert rule.divergence == pytest.approx(float(expected), rel=1e-3)


def test_at_the_base_itself_the_divergence_is_zero() -> None:
    rule = Distill()
    run = started("llama", [Replay(ROWS[:8], 0.5), rule])
    run.model.eval()
    mixed = run.batch(batches(1))[0]
    rule.penalty(run, mixed, run.model(**{k: v for k, v in mixed.items() if k != REPLAYED}))
    assert abs(rule.divergence) < 1e-7


def test_without_replay_or_logits_it_says_so() -> None:
    with pytest.raises(Unsupported, match="replay"):
        started("llama", [Distill()])
    run = started("llama", [Replay(ROWS[:8], 0.5), rule := Distill()])
    with pytest.raises(Unsupported, match="logits"):
        rule.penalty(run, run.batch(batches(1))[0], {"logits": None})


SHORT = [{"input_ids": r["input_ids"][:7], "labels": [-100] * 4 + r["labels"][4:7]} for r in ROWS[:8]]


def moved(rule: Distill, kind: str = "llama", **replay: Any) -> tuple[Run, Batch, Tensor]:
    """A run after three steps, a padded batch with old and new rows, and the model's logits for it."""
    run = started(kind, [Replay(SHORT, 0.5, **replay), rule])
    for batch in batches(3):
        run.advance(batch)
    batch = batches(1, seed=9)[0]
    batch["labels"][:, :5] = -100
    mixed = run.batch([batch])[0]
    run.model.eval()
    return run, mixed, run.model(**inputs(mixed)).logits


def inputs(batch: Batch) -> Batch:
    return {k: v for k, v in batch.items() if k not in (REPLAYED, "labels")}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_teacher_is_the_target_and_pads_do_not_count(temperature: float) -> None:
    """The gradient in closed form. With the roles changed or pads counted it is another one."""
    rule = Distill(3.0, temperature=temperature)
    run, mixed, logits = moved(rule)
    logits = logits.detach().requires_grad_()
    penalty = rule.penalty(run, mixed, {"logits": logits})
    assert penalty is not None
    (found,) = torch.autograd.grad(penalty, logits)
    theirs = model_of("llama").eval()(**inputs(mixed)).logits.detach()
    counted = (mixed["attention_mask"].bool() & mixed[REPLAYED][:, None]).float()[..., None]
    p, q = (torch.softmax(x / temperature, -1) for x in (theirs, logits.detach()))
    expected = 3.0 * temperature * (q - p) * counted / counted.sum()
    assert torch.allclose(found, expected, atol=1e-6)
    assert float(expected.abs().max()) > 1e-4
    swapped = 3.0 * temperature * q * ((q / p).log() - (q * (q / p).log()).sum(-1, keepdim=True)) * counted
    assert float((swapped / counted.sum() - expected).abs().max()) > 2e-5


def test_the_teacher_reads_without_dropout() -> None:
    run, mixed, _ = moved(Distill())
    run.model.train()
    theirs = model_of("llama").eval()(**inputs(mixed)).logits
    assert torch.equal(run.base(mixed).logits, theirs) and run.model.training
    torch.manual_seed(0)
    assert not torch.allclose(run.model(**inputs(mixed)).logits, theirs, atol=1e-2)


@pytest.mark.parametrize("on", ["replay", "answers", "new", "prompts"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "logits"])
def test_it_counts_the_tokens_that_are_named(on: str, direction: str) -> None:
    rule = Distill(2.0, direction, on)
    run, mixed, logits = moved(rule)
    penalty = rule.penalty(run, mixed, {"logits": logits})
    theirs = model_of("llama").eval()(**inputs(mixed)).logits
    figures = []
    for row in range(len(logits)):
        for at in range(int(mixed["attention_mask"][row].sum())):
            p, q = (Categorical(logits=x[row, at]) for x in (theirs, logits))
            last = at + 1 == int(mixed["attention_mask"][row].sum())
            unlearnt = not last and int(mixed["labels"][row, at + 1]) == -100
            old, learnt = bool(mixed[REPLAYED][row]), not last and not unlearnt
            if {"replay": old, "answers": old and learnt, "new": not old, "prompts": not old and unlearnt}[on]:
                squares = (theirs[row, at] - logits[row, at]).square().mean()
                pair = {"forward": (p, q), "reverse": (q, p)}.get(direction)
                figures.append(float((squares if pair is None else kl_divergence(*pair)).detach()))
    assert penalty is not None and len(figures) == {"replay": 28, "answers": 12, "new": 48, "prompts": 16}[on]
    assert float(penalty.detach()) == pytest.approx(2.0 * sum(figures) / len(figures), rel=1e-3)


def test_rows_that_are_only_distilled_have_no_answers_and_count_whole() -> None:
    found = []
    for where in ("replay", "answers"):
        run, mixed, logits = moved(Distill(2.0, where=where), labels=False)
        found.append(run.penalty(mixed, {"logits": logits}))
    assert found[0] is not None and found[1] is not None and torch.equal(found[0], found[1])


def test_new_rows_need_no_replay() -> None:
    rule = Distill(1.0, where="new")
    run = started("llama", [rule])
    for batch in batches(2):
        run.advance(batch)
    assert rule.divergence > 0
    only_answers = batches(1)[0]
    none = Distill(1.0, where="prompts")
    run = started("llama", [none])
    assert none.penalty(run, only_answers, run.model(**only_answers)) is None


@pytest.mark.parametrize("kind", ["llama", "lora"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_whole_vocabulary_kept_is_the_teacher_asked_anew(kind: str, on_disk: bool, tmp_path: Path) -> None:
    live, kept = Distill(3.0), Distill(3.0, top=96, folder=tmp_path / "kept" if on_disk else None)
    for rule in (live, kept):
        run, mixed, _ = moved(rule, kind)
        rule.penalty(run, mixed, run.model(**inputs(mixed)))
        run.end()
    assert kept.divergence == pytest.approx(live.divergence, rel=1e-4) and live.divergence > 1e-4
    assert not on_disk or not list((tmp_path / "kept").glob("*"))


def test_fewer_answers_say_less_and_the_base_is_asked_once_a_row() -> None:
    live, kept = Distill(3.0), Distill(3.0, top=8)
    for rule in (live, kept):
        run, mixed, logits = moved(rule)
        rule.penalty(run, mixed, {"logits": logits})
    assert 0 < kept.divergence < live.divergence
    assert kept._answers is not None and 0 < len(kept._answers) <= len(SHORT)


def test_answers_of_an_earlier_model_hold_the_present_one_to_it() -> None:
    """DER: what was said when the rows were kept counts, not what the base of this run would say."""
    earlier = model_of("llama")
    with torch.no_grad():
        for tensor in earlier.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    answers = answered(earlier, SHORT, 96)
    rule = Distill(1.0, "logits", answers=answers)
    run, mixed, logits = moved(rule)
    rule.penalty(run, mixed, {"logits": logits})
    theirs = earlier.eval()(**inputs(mixed)).logits
    real = mixed["attention_mask"].bool() & mixed[REPLAYED][:, None]
    expected = float((logits - theirs)[real].detach().square().mean())
    assert rule.divergence == pytest.approx(expected, rel=1e-3)
    run.end()
    assert len(answers) == len(SHORT)


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_the_divergence_reaches_the_selected_layers_only(kind: str) -> None:
    gradients = []
    for layers in (None, "layers(1:)"):
        rule = Distill(0.0, layers=layers)
        run, mixed, logits = moved(rule, kind)
        rule.strength = 3.0
        penalty = rule.penalty(run, mixed, {"logits": logits})
        assert penalty is not None
        run.optimizer.zero_grad()
        penalty.backward()  # type: ignore[no-untyped-call]
        gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in run.tensors.items()})
    whole, part = gradients
    for name, param in run.params.items():
        if (param.layer or 0) >= 1:
            assert part[name] is not None and torch.allclose(part[name], whole[name], atol=1e-6)  # type: ignore[arg-type]
        else:
            assert part[name] is None and whole[name] is not None


VARIANTS: dict[str, Any] = {
    "reverse": lambda: [Replay(SHORT, 0.34), Distill(4.0, "reverse", temperature=2.0)],
    "logits": lambda: [Replay(SHORT, 0.34, labels=False), Distill(0.1, "logits")],
    "new": lambda: [Distill(4.0, where="new")],
    "top": lambda: [Replay(SHORT, 0.34), Distill(4.0, top=6)],
    "layers": lambda: [Replay(SHORT, 0.34), Distill(4.0, layers="layers(1:)")],
}


@pytest.mark.parametrize("kind", quickly(["llama"], ["llama", "lora"]))
@pytest.mark.parametrize("name", quickly(["layers", "logits"], sorted(VARIANTS)))
def test_every_variant_keeps_the_contract(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant: dict[str, Any] = {name: VARIANTS[name]}
    monkeypatch.setattr(contract, "EXAMPLES", variant)
    contract.test_weights_stay_finite_and_runs_repeat(name, kind)
    contract.test_strength_zero_is_the_list_without_the_rule(name, kind)
    contract.test_a_restored_snapshot_replays_the_same_batches_bit_for_bit(name, kind, 3)
    contract.test_a_resumed_run_equals_the_uninterrupted_one(name, kind, tmp_path)
    contract.test_nothing_is_left_behind(name, kind, False)


def test_what_cannot_be_distilled_is_said() -> None:
    for given, said in (
        ({"strength": -1.0}, "negative"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"top": 0}, "top >= 1"),
        ({"answers": answered(model_of("llama"), SHORT[:1], 4), "temperature": 2.0}, "kept at temperature 1.0"),
    ):
        with pytest.raises(BadInput, match=said):
            Distill(**given)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="forward"):
        Distill(direction="forwards")
    with pytest.raises(UnknownName, match="prompts"):
        Distill(where="prompt")
    with pytest.raises(BadInput, match="layers"):
        rules: list[Rule] = [Replay(SHORT, 0.5), Distill(layers="layers(7:)")]
        started("llama", rules)


@pytest.mark.parametrize("where", ["replay", "new"])
def test_it_does_not_matter_how_a_step_is_cut_into_micro_batches(where: str) -> None:
    run = started("llama", [Replay(ROWS[:8], 0.0), Distill(4.0, where=where)])
    with torch.no_grad():
        for tensor in run.tensors.values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    run.model.eval()
    whole = {k: torch.cat([batch[k] for batch in batches(2)]) for k in ("input_ids", "labels")}
    whole[REPLAYED] = torch.tensor([False, False, True, False, False, True, True, False])
    found = []
    for parts in (1, 2, 4, 8):
        size = 8 // parts
        window = run.batch([{k: v[i : i + size] for k, v in whole.items()} for i in range(0, 8, size)])
        found.append(sum(float(run.penalty(batch, run.model(**inputs(batch)))) for batch in window))
    assert found[0] > 0.01
    assert found == pytest.approx([found[0]] * 4, rel=1e-5)
