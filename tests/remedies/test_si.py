"""SI against the path integral written out, on weights and on the product of LoRA factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.params.fisher import normalised
from holdfast.remedies.carried import FILE, plain, read
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.si import SI
from holdfast.rule import Rule
from holdfast.run import Run
from tests.test_every_rule import EARLIER, batches, started, weights


def gradients(run: Run, batch: Any) -> dict[str, Tensor]:
    """The gradient of the model's own loss, without any rule."""
    loss = run.model(**batch).loss
    return dict(zip(run.tensors, torch.autograd.grad(loss, list(run.tensors.values())), strict=True))


def walked(rules: list[Rule], steps: int = 4) -> tuple[Run, dict[str, Tensor], dict[str, Tensor]]:
    """A run, the path integral of the loss along it, and where it began."""
    run = started("llama", rules)
    run.model.eval()  # no dropout: the loss is the same when it is asked twice
    start, total = weights(run), {n: torch.zeros_like(t) for n, t in run.tensors.items()}
    for batch in batches(steps):
        before, slope = weights(run), gradients(run, batch)
        run.advance(batch)
        for name in total:
            total[name] -= slope[name] * (run.tensors[name].detach() - before[name])
    return run, total, start


def test_what_is_written_is_the_path_integral_over_the_squared_way(tmp_path: Path) -> None:
    run, total, start = walked([SI(damping=0.1, folder=tmp_path)])
    ways = {n: (t.detach() - start[n]).square() for n, t in run.tensors.items()}
    mean = sum(float(w.sum()) for w in ways.values()) / sum(w.numel() for w in ways.values())
    run.end()
    found = read(tmp_path / FILE, run)
    for name, expected in normalised({n: total[n].clamp(min=0) / (ways[n] + 0.1 * mean) for n in ways}).items():
        assert torch.allclose(found[name], expected, rtol=1e-3, atol=1e-4)


def test_the_path_integral_adds_up_to_the_fall_of_the_loss() -> None:
    """With steps small enough, all weights together earned what the loss fell by."""
    rule = SI()
    run = started("llama", [rule])
    run.model.eval()
    batch = batches(1)[0]
    for group in run.optimizer.param_groups:
        group["lr"], group["weight_decay"] = 1e-4, 0.0
    first = float(run.model(**batch).loss)
    for _ in range(20):
        run.advance(batch)
    fell = first - float(run.model(**batch).loss)
    assert sum(float(t.sum()) for t in rule.path.values()) == pytest.approx(fell, rel=0.05)


def test_pulls_are_no_part_of_the_gradient_but_of_the_way() -> None:
    """An anchor that is part of the loss would count as importance for the task: here it does not."""
    rule = SI(1e3, EARLIER)
    _, total, _ = walked([rule, L2SP(50.0)])
    assert all(torch.allclose(rule.path[n], total[n], rtol=1e-3, atol=1e-6) for n in total)


def test_earlier_importance_is_held_back_and_passed_on(tmp_path: Path) -> None:
    drift = []
    for strength in (0.001, 1e4):
        run = started("llama", [SI(strength, EARLIER, decay=0.5, folder=tmp_path)])
        start = weights(run)
        for batch in batches(4):
            run.advance(batch)
        drift.append(sum(float((EARLIER[n] * (t - start[n]).square()).sum()) for n, t in run.tensors.items()))
        run.end()
        found = read(tmp_path / FILE, run)
        assert torch.cat([t.flatten() for t in found.values()]).mean() == pytest.approx(
            1 + 0.5 * float(torch.cat([t.flatten() for t in EARLIER.values()]).mean()), rel=1e-3
        )
    assert drift[1] < 0.5 * drift[0]


def test_on_lora_rows_and_columns_of_the_product_keep_what_they_earned(tmp_path: Path) -> None:
    rule = SI(damping=1e6, folder=tmp_path)  # so much that ways no longer count, and only what was earned does
    run = started("lora", [rule])
    for batch in batches(4):
        run.advance(batch)
    earned = {n: t.clone() for n, t in rule.path.items()}
    run.end()
    found = read(tmp_path / FILE, run)
    for name, param in run.params.items():
        if param.lora is None or param.lora.side == "A":
            continue
        rows = earned[name].sum(1).clamp(min=0)
        importance = found[param.lora.target]
        assert plain(param.lora.target) in EARLIER and importance.shape == EARLIER[plain(param.lora.target)].shape
        assert torch.allclose(importance.sum(1) / importance.sum(), rows / rows.sum(), atol=1e-3)


def test_nothing_learnt_leaves_what_was_there(tmp_path: Path) -> None:
    run = started("llama", [SI(1.0, EARLIER, decay=0.5, folder=tmp_path)])
    run.end()
    assert all(torch.equal(t, EARLIER[n]) for n, t in read(tmp_path / FILE, run).items())


def test_damping_has_to_be_there() -> None:
    with pytest.raises(BadInput, match="damping"):
        SI(damping=0.0)
