"""Proxies against gradients taken by hand, and what they say of candidates."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.base import load_base
from holdfast.data.rows import collate
from holdfast.recipe import load
from holdfast.search.candidates import fitting, measures
from holdfast.search.ground import Ground
from holdfast.search.proxies import ROWS, Proxies, agreement, measured
from holdfast.search.space import Space, spanned
from tests.search.conftest import small
from tests.search.conftest import space as wanted


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(load(small(tmp_path_factory.mktemp("proxies"))), load_base("tiny"))


@pytest.fixture(scope="module")
def proxies(ground: Ground) -> Proxies:
    return measured(ground)


@pytest.fixture(scope="module")
def space(ground: Ground) -> Space:
    return spanned(ground.recipe, fitting(ground.recipe, ["full", "lora"])[0], *measures(ground.base.model), wanted())


def test_the_gradient_of_a_part_is_autograds(ground: Ground, proxies: Proxies) -> None:
    model = load_base("tiny").model.eval()
    batch = collate(ground.texts.learn[0][:ROWS], ground.base.pad_id)
    model(**batch).loss.backward()
    part = [p.grad for name, p in model.named_parameters() if ".layers.2.mlp." in name and p.grad is not None]
    assert proxies.parts["layers.2 mlp"].gradient == pytest.approx(sum(float(g.square().sum()) for g in part), rel=1e-4)


def test_the_fisher_of_a_part_is_a_mean_over_sequences_and_elements(ground: Ground, proxies: Proxies) -> None:
    model = load_base("tiny").model.eval()
    weight = dict(model.named_parameters())["model.norm.weight"]
    (text,) = [text for name, text in ground.choosing.items() if name.startswith("kept/")]
    squares = []
    for row in text.probe.rows[:ROWS]:
        batch = collate([row], ground.base.pad_id)
        tokens = int((batch["labels"][:, 1:] != -100).sum())
        (g,) = torch.autograd.grad(model(**batch).loss * tokens, [weight])
        squares.append(g.square().mean())
    assert proxies.parts["norm"].fisher == pytest.approx(float(torch.stack(squares).mean()), rel=1e-3)


def test_a_candidate_is_guessed_by_the_parts_that_it_moves(proxies: Proxies, space: Space) -> None:
    lora = {"method": "lora", "targets": "mlp", "layers": "0:2"}
    pulls = [proxies.parts[f"layers.{i} mlp"].pull for i in range(2)]
    assert proxies.of(space, lora) == pytest.approx(math.sqrt(sum(pulls)))
    more = proxies.of(space, {**lora, "targets": "attention | mlp"})
    assert proxies.of(space, lora) < more < proxies.of(space, {"method": "full", "layers": "0:5"})


def test_agreement_is_spearmans() -> None:
    told = agreement([4.0, 3.0, 1.0, 2.0], [0, 1, 2, 3])
    assert told is not None and told["correlation"] == pytest.approx(1 - 6 * 2 / (4 * 15)) and told["n"] == 4
    assert agreement([1.0, 1.0, 1.0], [0, 1, 2]) is None and agreement([1.0, 2.0], [0, 1]) is None
