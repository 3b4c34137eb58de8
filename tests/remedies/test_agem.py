"""A-GEM against the published projection, and its promise under any optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.data.rows import collate
from holdfast.remedies.agem import AGEM
from holdfast.remedies.migu import MIGU
from holdfast.run import Run
from holdfast.strategies.frozen import Frozen
from tests.models import build
from tests.test_every_rule import ROWS, batches, started, weights


def slope(run: Run, batch: Any) -> dict[str, Tensor]:
    names = [n for n in run.tensors if n not in run.held]
    loss = run.model.eval()(**batch).loss
    return dict(zip(names, torch.autograd.grad(loss, [run.tensors[n] for n in names]), strict=True))


def dot(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(float((a[n].double() * b[n].double()).sum()) for n in a.keys() & b.keys())


def against() -> list[dict[str, Any]]:
    """A memory whose loss learning the batches raises: the same texts with other answers."""
    ids = batches(1)[0]["input_ids"].tolist()
    return [{"input_ids": row, "labels": [(t * 7 + 5) % 93 + 3 for t in row]} for row in ids]


def test_under_sgd_it_is_the_projection_of_the_gradient() -> None:
    model, memory, batch = build("llama").eval(), against(), batches(1)[0]
    run = Run(model, torch.optim.SGD(model.parameters(), lr=0.1), [AGEM(memory, rows=len(memory))])
    run.begin()
    for _ in range(8):
        new, old, before = slope(run, batch), slope(run, collate(memory, 0)), weights(run)
        overlap = dot(new, old)
        projected = {n: g - min(overlap, 0.0) / dot(old, old) * old[n] for n, g in new.items()}
        run.advance(batch)
        apart = torch.cat([(run.tensors[n] - before[n] + 0.1 * g).detach().flatten() for n, g in projected.items()])
        assert int((apart.abs() > 1e-6).sum()) <= 2  # a weight whose movement rounds to nothing counts as held
    assert overlap < 0  # the two pull apart in the end, so that the projection was needed
    run.end()


def test_under_adam_no_step_goes_up_the_old_loss() -> None:
    """What a projected gradient does not give: momentum and scaling come after it."""
    memory, batch, taken = against(), batches(1)[0], 0
    rule = AGEM(memory, rows=len(memory))
    run = started("llama", [rule])
    for _ in range(12):
        old, before = slope(run, collate(memory, 0)), weights(run)
        run.model.train()
        run.advance(batch)
        way = {n: t.detach() - before[n] for n, t in run.tensors.items()}
        taken += rule.taken > 0
        assert dot(way, old) <= 1e-4 * (dot(way, way) * dot(old, old)) ** 0.5
    assert taken > 2
    run.end()


def test_a_step_that_harms_nothing_stays_as_it_is() -> None:
    batch = batches(1)[0]
    same = [{"input_ids": row, "labels": row} for row in batch["input_ids"].tolist()]
    plain, guarded = started("llama", []), started("llama", [AGEM(same, rows=len(same))])
    for run in (plain, guarded):
        for group in run.optimizer.param_groups:
            group["weight_decay"] = 0.0
        run.model.eval()
        run.advance(batch)
    assert all(torch.equal(t, plain.tensors[n]) for n, t in guarded.tensors.items())


def test_what_others_keep_still_is_not_moved_by_the_projection() -> None:
    rule = AGEM(against(), rows=4)
    run = started("llama", [rule, MIGU(0.5), Frozen("layers(0:1)")])
    for batch in batches(1) * 8:
        before = weights(run)
        run.advance(batch)
        still = [int((run.tensors[n] == before[n]).sum()) for n in run.tensors if "up_proj" in n]
        assert rule.taken >= 0 and still[0] == run.tensors["model.layers.0.mlp.up_proj.weight"].numel()
        assert all(s >= 0.5 * 32 * 16 for s in still[1:])
    run.end()


def test_rows_are_drawn_without_replacement_until_all_were_seen() -> None:
    rule = AGEM(ROWS[:6], rows=4)
    run = started("llama", [rule])
    drawn = [i for _ in range(3) for i in rule._draw(run, 4)]
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list(range(6))
    run.end()


def test_without_rows_it_says_so() -> None:
    with pytest.raises(BadInput, match="has rows"):
        AGEM([])
