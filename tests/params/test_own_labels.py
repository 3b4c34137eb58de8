"""Fisher information under the model's own labels, against every label of every position by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from holdfast._errors import BadInput
from holdfast.params.fisher import fisher
from holdfast.params.own_labels import fisher_exact, fisher_sampled
from tests.models import VOCABULARY, build
from tests.params.loop import Batch, error, full, rows, split


def enumerated(model: Any, batch: Batch, chosen: slice = slice(None), power: int = 1) -> dict[str, Tensor]:
    """The definition, by a loop over sequences, positions and tokens; `power` of the probability is the weight."""
    named = dict(model.named_parameters())
    total = {n: torch.zeros_like(p) for n, p in named.items()}
    for one in split(batch, 1):
        inputs = {k: v for k, v in one.items() if k != "labels"}
        bears = one["labels"][0, 1:].ne(-100).nonzero()[:, 0].tolist()
        logs = model(**inputs).logits[0].log_softmax(-1)
        for place in bears:
            for token in range(VOCABULARY)[chosen]:
                gradients = torch.autograd.grad(
                    logs[place, token], list(named.values()), retain_graph=True, allow_unused=True
                )
                for name, g in zip(named, gradients, strict=True):
                    if g is not None:
                        total[name] += logs[place, token].detach().exp() ** power * g.square() / len(batch["labels"])
    return total


def apart(ours: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    """The relative distance between two importances."""
    square = sum(float((ours[n] - truth[n]).square().sum()) for n in truth)
    return (square / sum(float(t.square().sum()) for t in truth.values())) ** 0.5


@pytest.fixture(scope="module")
def small() -> tuple[Any, Batch, dict[str, Tensor]]:
    model, batch = build("llama"), rows(2, 4)
    return model, batch, enumerated(model, batch)


@pytest.mark.slow
def test_exact_equals_the_loop_over_all_labels_for_any_batch_size(small: Any) -> None:
    model, batch, truth = small
    for size in (1, 2):
        found = fisher_exact(model, split(batch, size), positions=None, classes=None)
        assert error(found, truth) < 1e-4


@pytest.mark.slow
def test_an_expectation_taken_twice_fails_the_same_comparison(small: Any) -> None:
    """The square of the true label's gradient times its probability is neither exact nor empirical."""
    model, batch, truth = small
    assert error(enumerated(model, batch, power=2), truth) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [{"positions": 1, "classes": 20}, {"positions": None, "classes": 3}])
def test_a_bounded_cost_leaves_the_mean_as_it_is(small: Any, bounds: dict[str, Any]) -> None:
    model, batch, truth = small
    runs = [fisher_exact(model, [batch], seed=seed, **bounds) for seed in range(8)]
    mean = {n: torch.stack([r[n] for r in runs]).mean(0) for n in truth}
    assert apart(mean, truth) < 0.6 * sum(apart(r, truth) for r in runs) / len(runs)


@pytest.mark.slow
def test_sampled_has_the_exact_expectation_as_its_mean(small: Any) -> None:
    model, batch, truth = small
    runs = [fisher_sampled(model, [batch], seed=seed) for seed in range(60)]
    mean = {n: torch.stack([r[n] for r in runs]).mean(0) for n in truth}
    assert apart(mean, truth) < 0.25 * sum(apart(r, truth) for r in runs) / len(runs)
    assert apart(fisher(model, [batch]), truth) > 2 * apart(mean, truth)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "bert", "t5", "lora"])
def test_sampled_is_the_square_of_each_sequence_with_its_drawn_labels(arch: str, monkeypatch: Any) -> None:
    """Where the model is sure, what it draws is what it predicts: then a loop with those labels is the definition."""
    model, batch = build(arch), rows(4, 7)
    drawn: list[Tensor] = []

    def likeliest(probabilities: Tensor, generator: Any) -> Tensor:
        drawn.append(probabilities.argmax(-1))
        return drawn[-1]

    monkeypatch.setattr("holdfast.params.own_labels._picked", likeliest)
    found = fisher_sampled(model, split(batch, 3))
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}
    for one, targets in zip(split(batch, 1), drawn, strict=True):
        inputs = {k: v for k, v in one.items() if arch == "t5" or k != "labels"}
        bears = one["labels"][0].ne(-100) if arch in ("t5", "bert") else one["labels"][0].roll(-1).ne(-100)
        bears[-1] &= arch in ("t5", "bert")
        loss = cross_entropy(model(**inputs).logits[0, bears], targets, reduction="sum")
        held = dict(model.named_parameters())
        gradients = torch.autograd.grad(loss, [held[n] for n in total], allow_unused=True)
        for name, g in zip(total, gradients, strict=True):
            total[name] += 0 if g is None else g.square() / 4
    assert error(found, total) < 1e-4


@pytest.mark.parametrize("score", [fisher_sampled, fisher_exact])
def test_draws_follow_the_seed_and_not_the_batches(score: Any) -> None:
    model, batch = build("llama", dropout=0.3).train(), full(5)
    whole, parted = score(model, [batch]), score(model, split(batch, 2))
    assert error(parted, whole) < 1e-4
    assert error(score(model, [batch], seed=1), whole) > 1e-2
    assert model.training and not any(p.grad is not None for p in model.parameters())


def test_progress_counts_sequences_and_bad_bounds_are_refused() -> None:
    model, batch, seen = build("llama"), full(5), list[int]()
    fisher_exact(model, split(batch, 2), progress=seen.append)
    assert seen == [2, 4, 5]
    for bounds in ({"positions": 0}, {"classes": 0}, {"classes": -1}):
        with pytest.raises(BadInput, match="at least one"):
            fisher_exact(model, [batch], **bounds)
