"""The governor keeps the budget on the control text, uses it up, and says what it did."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import t
from torch import nn

from holdfast._errors import BadInput, TrainingStopped
from holdfast.base import load_base
from holdfast.budget import Guard
from holdfast.data.formats import read
from holdfast.data.rows import Row, collate, rows
from holdfast.evaluation.certificate import verdict
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.statistics import paired
from holdfast.governor import Governor
from holdfast.remedies.distill import Distill
from holdfast.remedies.replay import Replay
from holdfast.rule import Rule
from holdfast.run import Run
from holdfast.tiny import TEXTS
from tests.models import build, lora
from tests.test_every_rule import batches, model_of

TOKENIZER = load_base("tiny").tokenizer


def text(file: str, count: int) -> list[Row]:
    path = next(folder / file for folder in TEXTS.values() if (folder / file).is_file())
    return rows(read(path), TOKENIZER, length=48)[:count]


OLD, NEW = text("tinystories_sample.jsonl", 64), text("train.txt", 64)


def guard(budget: float = 0.1, audits: int = 10_000, count: int = 64) -> Guard:
    return Guard("old", OLD[:count], audits, budget)


def fresh(kind: str) -> nn.Module:
    model: nn.Module = load_base("tiny").model
    return lora(model, r=4) if kind == "lora" else model


def zero_product(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(parameter)
    return model


def governed(rules: list[Rule], governor: Governor, kind: str = "full", steps: int = 24, rate: float = 3e-3) -> Run:
    torch.manual_seed(0)
    model = zero_product(fresh(kind)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    run = Run(model, optimizer, [*rules, governor])
    run.begin()
    for i in range(steps):
        run.advance(collate([NEW[(4 * i + j) % len(NEW)] for j in range(4)], 0))
        if run.stopped:
            break
    return run


def rise(run: Run, before: float) -> float:
    return sequence_losses(run.model, OLD).mean() - before


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rate"), [("full", 3e-3), ("lora", 3e-2)])
def test_without_anything_to_tighten_it_walks_back_and_ends_inside(kind: str, rate: float) -> None:
    before = sequence_losses(fresh("full"), OLD).mean()
    free = governed([], Governor([guard(1e6)], every=6), kind, rate=rate)
    free.end()
    assert rise(free, before) > math.log1p(0.1)

    governor = Governor([guard(0.1)], every=6, look=32)
    run = governed([], governor, kind, rate=rate)
    run.end()
    assert rise(run, before) <= math.log1p(0.1)
    assert governor.fraction > 0
    actions = [line["action"] for line in run.journal if line["kind"] == "governor"]
    assert "walked back" in actions


@pytest.mark.parametrize(
    ("budget", "action"), [(0.1, "tightened"), pytest.param(1e3, "loosened", marks=pytest.mark.slow)]
)
def test_it_tightens_over_the_aim_and_loosens_below_it(budget: float, action: str) -> None:
    distill = Distill(1.0)
    run = governed([Replay(OLD, 0.34, labels=False), distill], Governor([guard(budget)], every=8))
    strength = distill.strength
    steered = [line["action"] for line in run.journal if line["kind"] == "governor"]
    run.end()
    assert action in steered
    assert (strength > 1) == (action == "tightened")


@pytest.mark.slow
def test_the_final_weights_are_inside_the_aim_on_all_control_rows_and_use_it_up() -> None:
    keeper = guard(0.1)
    run = governed([], Governor([keeper], every=8, look=24))
    run.end()
    before, after = sequence_losses(fresh("full"), OLD), sequence_losses(run.model, OLD)
    each = (after.total - before.total) / before.tokens
    aim = keeper.aim(float(each.std()), len(OLD), 0.995)
    assert 0.8 * aim < float(each.mean()) <= 1.02 * aim


@pytest.mark.slow
def test_looks_that_bring_nothing_stop_the_run_and_say_why() -> None:
    run = governed([], Governor([guard(0.08)], every=4, look=48, patience=1), steps=60, rate=3e-2)
    run.end()
    assert run.stopped is not None and "inside the budget" in run.stopped
    assert run.step < 60


def test_a_loss_that_is_not_finite_leaves_the_last_admitted_weights() -> None:
    torch.manual_seed(0)
    model = model_of("llama")
    control = [{"input_ids": r, "labels": r} for r in batches(40)[0]["input_ids"].tolist() * 20]
    run = Run(
        model, torch.optim.AdamW(model.parameters(), lr=1e-3), [Governor([Guard("old", control, 80, 1.0)], every=2)]
    )
    run.begin()
    for batch in batches(4):
        run.advance(batch)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(TrainingStopped, match="not a finite number"):
        run.advance(batches(1)[0])
    run.end()
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    before = build("llama", dropout=0.2)
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))


def test_the_aim_leaves_room_for_both_probes() -> None:
    spread, audits, looked = 0.08, 260, 260
    se = spread / math.sqrt(260)
    expected = math.log1p(0.05) - t.ppf(0.95, 259) * se - t.ppf(0.98, 259) * math.sqrt(2) * se
    assert guard(0.05, audits).aim(spread, looked, 0.98) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_the_aim_makes_certificates_hold_as_often_as_promised() -> None:
    generator = torch.Generator().manual_seed(0)
    spread, n, held = 0.05, 200, 0
    keeper = guard(0.03, n)
    aim = keeper.aim(spread, n, 0.9)
    before = SequenceLosses(torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.int64))
    for _ in range(2000):
        control, audit = torch.randn(2, n, generator=generator, dtype=torch.float64) * spread
        truth = aim - float(control.mean())  # the weights were chosen so that the control's mean is the aim
        rise = paired(before, SequenceLosses(audit + truth, before.tokens), resamples=400)
        held += verdict(rise, keeper.budget)[0] == "holds"
    assert 0.88 <= held / 2000 <= 0.92


@pytest.mark.parametrize("budget", [0, -0.1])
def test_a_budget_has_to_be_positive(budget: float) -> None:
    with pytest.raises(BadInput, match="above 0"):
        guard(budget)


def test_a_budget_that_the_probes_cannot_resolve_is_refused_with_the_number_that_would() -> None:
    model = fresh("full")
    short = guard(0.001, 4, 4)
    run = Run(model, torch.optim.AdamW(model.parameters()), [Governor([short])])
    with pytest.raises(BadInput, match=r"about [\d,]+ of each"):
        run.begin()
