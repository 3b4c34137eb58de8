"""The λ of the guide: small steps are those of its penalties, and F is the mean of squared gradients per sequence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from holdfast._errors import BadInput, UnknownName
from holdfast.data.rows import collate
from holdfast.llm import EWCTrainer, L2RegularizedTrainer
from holdfast.llm.anchored import check_room, summed
from holdfast.llm.trainers import TextTrainer
from tests.llm.training import ROWS, arguments, values
from tests.models import build

Penalty = Callable[[dict[str, nn.Parameter], dict[str, nn.Parameter]], Any]


class Moved(TrainerCallback):
    """Moves the weights once the run has begun, so that there is something to be held back from the first step on."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for p, way in zip(kwargs["model"].parameters(), ways(), strict=True):
                p.add_(way)


def ways() -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [0.01 * torch.randn(p.shape, generator=generator) for p in build("llama").parameters()]


def one_step(trainer: TextTrainer) -> list[Tensor]:
    """How far one step moves each tensor, from where `Moved` left it."""
    trainer.add_callback(Moved())
    trainer.train()
    pairs = zip(trainer.model.parameters(), build("llama").parameters(), ways(), strict=True)
    return [(now - (start + way)).detach() for now, start, way in pairs]


def by_hand(penalty: Penalty, rate: float) -> list[Tensor]:
    """The same step of plain SGD on the loss with a penalty in it, as the guide writes it."""
    model, start = build("llama"), build("llama")
    with torch.no_grad():
        for p, way in zip(model.parameters(), ways(), strict=True):
            p.add_(way)
    total = model(**collate(ROWS[:4], 0)).loss + penalty(dict(model.named_parameters()), dict(start.named_parameters()))
    total.backward()
    return [-rate * p.grad for p in model.parameters()]


def size(tensors: list[Tensor]) -> float:
    return sum(float(t.square().sum()) for t in tensors) ** 0.5


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    return size([x - y for x, y in zip(a, b, strict=True)])


@pytest.mark.parametrize("rate", [1e-3, 1e-4])
def test_a_small_step_with_l2_is_that_of_the_guides_penalty(rate: float, tmp_path: Path) -> None:
    """But for what is of second order in the learning rate."""
    args, strength = arguments(tmp_path, learning_rate=rate, max_steps=1), 5.0
    ours = one_step(L2RegularizedTrainer(build("llama"), args, strength, train_dataset=ROWS))
    theirs = by_hand(lambda now, start: strength * sum(((now[n] - start[n]) ** 2).sum() for n in start), rate)
    without = by_hand(lambda now, start: 0.0, rate)
    assert apart(ours, theirs) < 3 * strength * rate * apart(without, theirs)


@pytest.mark.parametrize("rate", [1e-3, 1e-4])
def test_a_small_step_with_ewc_is_that_of_the_guides_penalty(rate: float, tmp_path: Path) -> None:
    args, strength = arguments(tmp_path, learning_rate=rate, max_steps=1), 20.0
    trainer = EWCTrainer(build("llama"), args, strength, 6, train_dataset=ROWS)
    importance = trainer.compute_fisher(ROWS)
    most = max(float(f.max()) for f in importance.values())
    ours = one_step(trainer)

    def penalty(now: dict[str, nn.Parameter], start: dict[str, nn.Parameter]) -> Any:
        return strength * 0.5 * sum((importance[n] * (now[n] - start[n]) ** 2).sum() for n in start)

    theirs, without = by_hand(penalty, rate), by_hand(lambda now, start: 0.0, rate)
    assert apart(ours, theirs) < 3 * strength * most * rate * apart(without, theirs)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5


def test_fisher_is_the_mean_of_squares_per_sequence(tmp_path: Path) -> None:
    model = build("llama")
    trainer = EWCTrainer(model, arguments(tmp_path), 1.0, 12, train_dataset=ROWS, estimator="empirical")
    found = trainer.compute_fisher(ROWS)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in ROWS:
        model.zero_grad()
        (model(**collate([row], 0)).loss * (len(row["labels"]) - 1)).backward()
        for name, p in model.named_parameters():
            expected[name] += p.grad.detach() ** 2 / len(ROWS)
    assert trainer.fisher_diag is found
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-8) for name in expected)


def test_so_many_rows_are_drawn_by_the_seed(tmp_path: Path) -> None:
    def measured(seed: int, samples: int) -> dict[str, Tensor]:
        trainer = EWCTrainer(build("llama"), arguments(tmp_path, seed=seed), 1.0, samples, train_dataset=ROWS)
        return trainer.compute_fisher(ROWS)

    assert distance(measured(0, 3), measured(0, 3)) == 0.0
    assert distance(measured(0, 3), measured(1, 3)) > 0 and distance(measured(0, 3), measured(0, 4)) > 0


def test_measured_again_it_counts_once(tmp_path: Path) -> None:
    trainer = EWCTrainer(build("llama"), arguments(tmp_path), 1.0, 4, train_dataset=ROWS, progressive=2)
    first, second = trainer.compute_fisher(ROWS[:6]), trainer.compute_fisher(ROWS[6:], device="cpu")
    assert len(trainer.rules) == 1 and distance(first, second) > 0


@pytest.mark.slow
def test_layers_and_time_scale_the_strength(tmp_path: Path) -> None:
    model, start = build("llama"), values(build("llama"))
    layered = {"layers": {"layers(0:1)": 1e6}}
    L2RegularizedTrainer(model, arguments(tmp_path), 1.0, train_dataset=ROWS, **layered).train()
    moved = {name: float((value - start[name]).abs().max()) for name, value in values(model).items()}
    low, high = ([v for n, v in moved.items() if f".layers.{i}." in n] for i in (0, 1))
    assert max(low) < 1e-3 * max(high)

    def way(**more: Any) -> float:
        model = build("llama")
        L2RegularizedTrainer(model, arguments(tmp_path), 100.0, train_dataset=ROWS, **more).train()
        return distance(values(model), start)

    assert way(progressive=100) > 2 * way()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    args, given = arguments(tmp_path), {"train_dataset": ROWS}
    with pytest.raises(BadInput, match="call compute_fisher"):
        EWCTrainer(build("llama"), args, **given).train()
    with pytest.raises(UnknownName, match="sampled"):
        EWCTrainer(build("llama"), args, estimator="sample", **given)
    with pytest.raises(BadInput, match="at least 0"):
        EWCTrainer(build("llama"), args, -1.0, **given)
    with pytest.raises(BadInput, match="negative"):
        L2RegularizedTrainer(build("llama"), args, -1.0, **given)


def test_a_strength_that_leaves_no_room_is_said(caplog: pytest.LogCaptureFixture) -> None:
    importance = {"w": torch.tensor([0.5, 1.5])}
    check_room(importance, 1e4, 1e-3)
    assert "no further than 0.1 steps of rate 0.001" in caplog.text and "With λ = 10 it could go 100" in caplog.text
    caplog.clear()
    check_room(importance, 10.0, 1e-3)
    check_room({}, 1e9, 1.0)
    assert caplog.text == ""


def test_importance_of_several_tasks_is_summed() -> None:
    one, two = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 5.0])}
    assert summed([one, two])["w"].tolist() == [4.0, 7.0] and summed([]) == {}
