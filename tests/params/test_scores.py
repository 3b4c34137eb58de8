"""Each score against its definition: single sequences in a loop, transformers' own loss, plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.params.importance import scores
from holdfast.params.scores import gradient, magnitude, mas, movement, sensitivity
from tests.models import ARCHITECTURES, build, quickly
from tests.params.loop import Batch, error, full, rows, split, summed

FLOOR, CLOSE = 1e-3, 1e-4
TEXT = ("fisher", "fisher_exact", "fisher_sampled", "gradient", "mas", "sensitivity")
"""The scores that read a text."""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def derivative(model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    named = trainable(model)
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(named[n]) if g is None else g for n, g in zip(named, found, strict=True)}


def squared_norm(model: Any, row: Batch) -> Tensor:
    """Of the logits of one sequence, which goes in without its padding."""
    if "T5" in type(model).__name__:
        return model(**row).logits[row["labels"] != -100].square().sum()
    end = int(row["attention_mask"].sum())
    return model(input_ids=row["input_ids"][:, :end]).logits.square().sum()


def mas_in_a_loop(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """One sequence at a time, the absolute value of its gradient, and the mean over the sequences."""
    found = [derivative(model, squared_norm(model, row)) for row in split(batch, 1)]
    return {n: torch.stack([f[n].abs() for f in found]).mean(0) for n in found[0]}


def loss_gradient(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Of transformers' own loss, the mean over all tokens of all rows in one batch."""
    return derivative(model, model(**batch).loss)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", quickly(["llama", "lora"], [*ARCHITECTURES, "lora"]))
def test_mas_equals_the_loop_for_any_batch_size(arch: str, tied: bool) -> None:
    model, batch = build(arch, tied=tied), rows()
    truth = mas_in_a_loop(model, batch)
    for size in (1, 2, 5):
        assert error(mas(model, split(batch, size)), truth, FLOOR) < CLOSE


def test_the_absolute_value_of_a_batch_gradient_fails_the_same_comparison() -> None:
    model, batch = build("llama"), rows(count=8)
    found = derivative(model, sum(squared_norm(model, row) for row in split(batch, 1)) / 8)
    assert error({n: g.abs() for n, g in found.items()}, mas_in_a_loop(model, batch), FLOOR) > 0.1


def test_mas_does_not_read_labels() -> None:
    model, batch = build("gpt2"), rows()
    unlabelled = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    without = {k: v for k, v in batch.items() if k != "labels"}
    for other in (unlabelled, without):
        assert error(mas(model, [other]), mas(model, [batch])) == 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", quickly(["llama", "lora"], [*ARCHITECTURES, "lora"]))
def test_gradient_is_that_of_the_mean_token_loss_for_any_batch_size(arch: str, tied: bool) -> None:
    model, batch = build(arch, tied=tied), rows()
    truth = {n: g.abs() for n, g in loss_gradient(model, batch).items()}
    for size in (1, 2, 5):
        assert error(gradient(model, split(batch, size)), truth, FLOOR) < CLOSE


def test_the_mean_of_the_batches_gradients_fails_the_same_comparison() -> None:
    """Batches hold unlike numbers of tokens, so the mean over batches is not the mean over tokens."""
    model, batch = build("llama"), rows()
    found = [loss_gradient(model, part) for part in split(batch, 2)]
    truth = {n: g.abs() for n, g in loss_gradient(model, batch).items()}
    assert error({n: (sum(f[n] for f in found) / len(found)).abs() for n in truth}, truth, FLOOR) > 1e-2


@pytest.mark.parametrize("arch", ["llama", "gpt2", "lora"])
def test_sensitivity_is_gradient_times_weight(arch: str) -> None:
    model, batch = build(arch), rows()
    found, named = loss_gradient(model, batch), trainable(model)
    taylor = {n: (g * named[n].detach()).abs() for n, g in found.items()}
    relative = {n: g.abs() / (named[n].detach().abs() + 1e-8) for n, g in found.items()}
    for size in (1, 5):
        assert error(sensitivity(model, split(batch, size)), taylor, FLOOR) < CLOSE
        assert error(sensitivity(model, split(batch, size), relative=True), relative, FLOOR) < CLOSE


def test_sensitivity_is_what_zeroing_a_small_weight_does_to_the_loss() -> None:
    model, batch = build("llama"), full(4)
    path, spot = "model.layers.0.mlp.down_proj.weight", (3, 5)
    weight = model.get_parameter(path)
    with torch.no_grad():
        weight[spot] = 1e-2
        predicted = float(sensitivity(model, [batch], paths={path})[path][spot])
        before = summed(model.double(), batch)
        model.get_parameter(path)[spot] = 0
        after = summed(model, batch)
    assert predicted == pytest.approx(float((after - before).abs()) / (4 * 7), rel=0.05)


def test_movement_is_the_distance_from_the_start() -> None:
    model = build("llama")
    start = {path: t.clone() for path, t in model.state_dict().items()}
    path = "model.layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        model.get_parameter(path)[0, 1] -= 0.5
    found = movement(model, start=start)
    assert list(found) == [n for n, _ in model.named_parameters()]
    assert float(found[path][0, 1]) == pytest.approx(0.5)
    assert sum(int(t.count_nonzero()) for t in found.values()) == 1
    alone = movement(model, start=start, paths={"lm_head.weight"})
    assert list(alone) == ["lm_head.weight"]


def test_movement_names_what_the_start_values_lack() -> None:
    model = build("llama")
    start = dict(model.state_dict())
    with pytest.raises(BadInput, match=r"model\.norm\.weight is \[3\] in the start"):
        movement(model, start={**start, "model.norm.weight": torch.zeros(3)})
    start.pop("model.norm.weight")
    with pytest.raises(BadInput, match=r"lack model\.norm\.weight"):
        movement(model, start=start)


def test_magnitude_is_the_size_of_the_weight() -> None:
    model = build("lora")
    found = magnitude(model)
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(t, model.get_parameter(n).detach().abs()) for n, t in found.items())
    assert all(t.data_ptr() != model.get_parameter(n).data_ptr() for n, t in found.items())


@pytest.mark.parametrize("name", scores.names())
def test_all_have_one_shape(name: str) -> None:
    model, batch, seen = build("llama").bfloat16(), rows(), []
    more: dict[str, Any] = {"start": model.state_dict()} if name == "movement" else {}
    found = scores[name](model, split(batch, 2), paths={"lm_head.weight"}, progress=seen.append, **more)
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {"lm_head.weight": (torch.float32, (96, 16))}
    assert seen == ([2, 4, 5] if name in TEXT else [])
    assert not found["lm_head.weight"].requires_grad and float(found["lm_head.weight"].min()) >= 0
    with pytest.raises(UnknownName, match=r"model\.norm\.weight"):
        scores[name](model, [batch], paths={"model.norm.wieght"}, **more)
    with pytest.raises(BadInput, match="no parameter"):
        scores[name](model.requires_grad_(False), [batch], **more)


@pytest.mark.parametrize("name", scores.names())
def test_a_tied_tensor_has_one_score_under_all_its_names(name: str) -> None:
    model, batch = build("llama"), rows()
    both, one = {"model.embed_tokens.weight", "lm_head.weight"}, {"lm_head.weight"}
    more: dict[str, Any] = {"start": build("llama", seed=1).state_dict()} if name == "movement" else {}
    found = scores[name](model, [batch], paths=both, **more)
    alone = scores[name](model, [batch], paths=one, **more)
    assert set(found) == both and all(torch.equal(t, alone["lm_head.weight"]) for t in found.values())


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_text_is_read_without_disturbing_the_model(name: str, context: Callable[[], Any]) -> None:
    model, batch = build("gpt2", dropout=0.5), rows()
    truth = scores[name](model, [batch])
    model.train()
    model.get_parameter("transformer.ln_f.weight").requires_grad_(False)
    flags = {n: (p.requires_grad, p.grad) for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    with context():
        found = scores[name](model, [batch], paths=set(truth))
    assert error(found, truth, FLOOR) < CLOSE
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert flags == {n: (p.requires_grad, p.grad) for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", TEXT)
def test_what_cannot_be_measured_is_refused(name: str) -> None:
    model = build("llama")
    with pytest.raises(BadInput, match="at least one batch"):
        scores[name](model, [])
    with pytest.raises(Unsupported, match="logits"):
        scores[name](model.model, [rows()])


def test_a_text_without_labels_has_no_gradient() -> None:
    batch = rows()
    batch["labels"][:] = -100
    for score in (gradient, sensitivity):
        with pytest.raises(BadInput, match="No token"):
            score(build("llama"), [batch])
