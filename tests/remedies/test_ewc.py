"""EWC holds back what the old text depends on, by the true per-example Fisher information."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import checkpoint
from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.data.rows import collate
from holdfast.params.fisher import normalised
from holdfast.params.own_labels import fisher_exact, fisher_sampled
from holdfast.remedies.carried import FILE, read
from holdfast.remedies.ewc import EWC
from holdfast.remedies.mas import MAS
from holdfast.run import Run
from tests.models import build
from tests.test_every_rule import EARLIER, ROWS, batches, drop_alike, started


def test_importance_is_the_mean_square_of_per_example_gradients_with_mean_one() -> None:
    rule = EWC(ROWS[:6], samples=5, batch_size=2)
    run = started("llama", [rule])
    model = run.model.eval()
    squares = {n: torch.zeros_like(p) for n, p in run.tensors.items()}
    for row in ROWS[:5]:
        batch = collate([row], 0)
        loss = model(**batch).loss * (len(row["labels"]) - 1)
        for name, gradient in zip(squares, torch.autograd.grad(loss, list(run.tensors.values())), strict=True):
            squares[name] += gradient.square() / 5
    mean = sum(float(s.sum()) for s in squares.values()) / sum(s.numel() for s in squares.values())
    for name, expected in squares.items():
        assert torch.allclose(rule.importance[name], expected / mean, rtol=1e-4, atol=1e-6)


def test_on_lora_the_importance_belongs_to_the_weight_that_the_product_is_added_to() -> None:
    rule = EWC(ROWS[:4])
    run = started("lora", [rule])
    targets = {p.lora.target for p in run.params.values() if p.lora}
    assert set(rule.importance) == targets
    shapes = {n: tuple(p.shape) for n, p in run.model.named_parameters()}
    assert all(tuple(rule.importance[t].shape) == shapes[t] for t in targets)


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_important_weights_move_less_than_under_an_even_pull(kind: str) -> None:
    weighed = []
    for strength in (0.0, 1e3):
        rule = EWC(ROWS[:8], strength)
        run = started(kind, [rule])
        importance = dict(rule.importance)
        for batch in batches(6):
            run.advance(batch)
        total = 0.0
        for name, param in run.params.items():
            if param.lora is None:
                drift, path = run.tensors[name] - run.base.values[name], name
            elif param.lora.side == "B":
                now = run.tensors[name] @ run.tensors[param.lora.partner]
                drift = now - run.base.values[name] @ run.base.values[param.lora.partner]
                path = param.lora.target
            else:
                continue
            total += float((importance[path] * drift.square()).sum())
        weighed.append(total)
    assert weighed[1] < 0.5 * weighed[0]


def test_without_rows_it_says_so() -> None:
    with pytest.raises(BadInput, match="no rows"):
        EWC([])


@pytest.mark.parametrize(("estimator", "score"), [("sampled", fisher_sampled), ("exact", fisher_exact)])
def test_other_estimators_are_those_of_params_with_mean_one(estimator: Any, score: Any) -> None:
    rule = EWC(ROWS[:4], estimator=estimator, batch_size=3)
    run = started("llama", [rule])
    expected = normalised(score(run.model, [collate(ROWS[:4], 0)], paths=set(run.params)))
    assert all(torch.allclose(rule.importance[n], t, rtol=1e-3, atol=1e-4) for n, t in expected.items())


def test_adams_second_moment_is_collected_and_then_holds_back(tmp_path: Path) -> None:
    rule = EWC(estimator="adam", strength=1e4, warmup=3, folder=tmp_path)
    run, free = started("llama", [rule]), started("llama", [])
    for step, batch in enumerate(batches(4)):
        assert bool(rule.importance) == (step >= 3)
        drop_alike(run, batch)
        drop_alike(free, batch)
        alike = all(torch.equal(t, free.tensors[n]) for n, t in run.tensors.items())
        assert alike == (step < 3)
        if step == 2:
            moments = normalised({n: run.optimizer.state[t]["exp_avg_sq"].clone() for n, t in run.tensors.items()})
            assert all(torch.equal(rule.importance[n], t) for n, t in moments.items())
    late = normalised({n: run.optimizer.state[t]["exp_avg_sq"].clone() for n, t in run.tensors.items()})
    run.end()
    found = read(tmp_path / FILE, run)
    assert all(torch.allclose(found[n], t) for n, t in late.items())


def test_the_moment_of_an_optimiser_that_goes_on_counts_from_the_first_step() -> None:
    first = started("llama", [])
    for batch in batches(3):
        first.advance(batch)
    first.end()
    second = Run(first.model, first.optimizer, [rule := EWC(estimator="adam")])
    second.begin()
    assert set(rule.importance) == set(second.params)
    second.end()


def test_a_pull_is_no_part_of_adams_second_moment() -> None:
    """TRACE squares gradients with its own penalty in them; a pull comes after the gradient."""
    moments = []
    for rules_ in ([], [EWC(estimator="adam", importance=EARLIER, strength=1e6)]):
        run = started("llama", rules_)
        drop_alike(run, batches(1)[0])
        moments.append({n: run.optimizer.state[t]["exp_avg_sq"] for n, t in run.tensors.items()})
    assert all(torch.equal(t, moments[1][n]) for n, t in moments[0].items())


def test_what_was_collected_survives_a_resume_and_goes_with_a_rollback(tmp_path: Path) -> None:
    rule = EWC(estimator="adam", warmup=2)
    run = started("llama", [rule])
    run.advance(batches(1)[0])
    early = run.snapshot()
    for batch in batches(2):
        run.advance(batch)
    collected = dict(rule.importance)
    fresh = EWC(estimator="adam", warmup=2)
    checkpoint.write_state(tmp_path, "prepared", run.prepared())
    checkpoint.write_state(tmp_path, "state", run.state())
    again = started("llama", [])
    again.end()
    resumed = Run(again.model, again.optimizer, [fresh])
    resumed.begin(checkpoint.read_state(tmp_path, "prepared"), checkpoint.read_state(tmp_path, "state"))
    assert collected and all(torch.equal(fresh.importance[n], t) for n, t in collected.items())
    run.restore(early)
    assert not rule.importance


def test_strengths_compare_between_estimators() -> None:
    """Whatever it is measured by, importance has mean 1; a mean loss or a squared batch would not change that."""
    for rule in (EWC(ROWS[:4]), EWC(ROWS[:4], estimator="sampled"), EWC(ROWS[:4], estimator="exact"), MAS(ROWS[:4])):
        started("llama", [rule])
        assert torch.cat([t.flatten() for t in rule.importance.values()]).mean() == pytest.approx(1.0, rel=1e-4)


def test_adam_is_refused_where_it_cannot_tell() -> None:
    with pytest.raises(Unsupported, match="A and B"):
        started("lora", [EWC(estimator="adam")])
    model = build("llama")
    with pytest.raises(Unsupported, match="SGD"):
        Run(model, torch.optim.SGD(model.parameters()), [EWC(estimator="adam")]).begin()
    with pytest.raises(UnknownName, match="empirical"):
        EWC(ROWS, estimator="emprical")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="nothing to measure"):
        EWC()


def test_samples_are_spread_over_the_whole_source() -> None:
    seen: list[Any] = []

    class Source(list[Any]):
        def __getitem__(self, at: Any) -> Any:
            seen.append(at)
            return super().__getitem__(at)

    started("llama", [EWC(Source(ROWS[:8]), samples=4)])
    assert seen == [0, 2, 4, 6]


def test_an_optimiser_without_second_moments_is_refused_after_the_warmup() -> None:
    class Silent(torch.optim.SGD):
        def __init__(self, params: Any):
            super().__init__(params, lr=1e-3)
            self.defaults["betas"] = (0.9, 0.99)

    model = build("llama").train()
    run = Run(model, Silent(model.parameters()), [EWC(estimator="adam", warmup=2)])
    run.begin()
    run.advance(batches(1)[0])
    with pytest.raises(Unsupported, match="exp_avg_sq"):
        run.advance(batches(1)[0])
