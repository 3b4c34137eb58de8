"""The Fisher information against a loop over single examples with transformers' own loss."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AlbertConfig, AlbertForMaskedLM
from transformers.modeling_outputs import CausalLMOutput

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.params import layer_gradients
from holdfast.params.fisher import fisher, normalised, product_fisher
from tests.models import ARCHITECTURES, build, quickly
from tests.params.loop import Batch, error, full, rows, split, summed


def looped(model: nn.Module, batch: Batch, paths: set[str] | None = None) -> dict[str, Tensor]:
    """The definition: one sequence at a time, the square of its gradient, and the mean over the sequences."""
    return squared_batch_gradient(model, split(batch, 1), paths)


def squared_batch_gradient(model: nn.Module, batches: list[Batch], paths: set[str] | None = None) -> dict[str, Tensor]:
    """The square of the mean gradient of a batch, averaged: right for batches of one, and wrong for any other."""
    named = {n: p for n, p in model.named_parameters() if (p.requires_grad if paths is None else n in paths)}
    flags = [p.requires_grad for p in named.values()]
    total = {n: torch.zeros_like(p) for n, p in named.items()}
    for p in named.values():
        p.requires_grad_(True)
    for batch in batches:
        gradients = torch.autograd.grad(summed(model, batch), list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            total[name] += 0 if gradient is None else gradient.square() / len(batch["input_ids"])
    for p, flag in zip(named.values(), flags, strict=True):
        p.requires_grad_(flag)
    return {n: t / sum(len(b["input_ids"]) for b in batches) for n, t in total.items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", quickly(["llama", "lora"], [*ARCHITECTURES, "lora"]))
def test_equals_the_loop_for_any_batch_size(arch: str, tied: bool) -> None:
    model, batch = build(arch, tied=tied), rows()
    truth = looped(model, batch)
    for size in (1, 2, 5):
        assert error(fisher(model, split(batch, size)), truth) < 1e-5


@pytest.mark.parametrize("arch", ["llama", "gpt2", "bert"])
def test_the_squared_batch_gradient_fails_the_same_comparison(arch: str) -> None:
    model, batch = build(arch), rows(count=8)
    truth = looped(model, batch)
    wrong = squared_batch_gradient(model, [batch])
    assert error(wrong, truth) > 0.1
    assert error(fisher(model, [batch]), truth) < 1e-5


def test_the_squared_batch_gradient_loses_most_of_the_mass() -> None:
    model, batch = build("llama"), full(32)
    ours, wrong, truth = (
        sum(float(t.sum()) for t in found.values())
        for found in (fisher(model, [batch]), squared_batch_gradient(model, [batch]), looped(model, batch))
    )
    assert ours == pytest.approx(truth, rel=1e-5)
    assert 0.5 / 32 < wrong / truth < 3 / 32


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_chunk_of_one_row_changes_nothing(arch: str) -> None:
    model, batch = build(arch), rows()
    assert error(fisher(model, [batch], chunk_bytes=1), looped(model, batch)) < 1e-5
    assert error(fisher(model, [batch], chunk_bytes=4 * 3 * 16 * 16), looped(model, batch)) < 1e-5


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt", "bert"])
def test_padding_changes_nothing(arch: str) -> None:
    model, batch = build(arch), rows()
    alone = []
    for row in split(batch, 1):
        end = int(row["attention_mask"].sum())
        alone.append({k: v[:, :end] for k, v in row.items() if k != "attention_mask"})
    padded = fisher(model, [batch])
    assert error(padded, fisher(model, alone)) < 1e-5


@pytest.mark.parametrize("arch", ["gpt2", "bert", "t5"])
def test_as_many_examples_as_tokens_are_not_mixed_up(arch: str) -> None:
    model, batch = build(arch), full(6, 6)
    assert error(fisher(model, [batch]), looped(model, batch)) < 1e-5


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_chosen_paths_only(arch: str) -> None:
    model, batch = build(arch), rows()
    paths = {n for n, _ in model.named_parameters() if ".1." in n and "mlp" in n}
    found = fisher(model, [batch], paths=paths)
    assert set(found) == paths and error(found, looped(model, batch, paths)) < 1e-5


def test_a_tied_alias_is_the_joint_fisher_of_both_uses() -> None:
    model, batch = build("llama"), rows()
    found = fisher(model, [batch], paths={"lm_head.weight"})
    truth = looped(model, batch, {"model.embed_tokens.weight"})
    assert error(found, {"lm_head.weight": truth["model.embed_tokens.weight"]}) < 1e-5


def test_product_fisher_is_that_of_the_frozen_weight_below_the_adapter() -> None:
    model, batch = build("lora"), rows()
    found = product_fisher(model, split(batch, 2))
    truth = looped(model, batch, set(found))
    assert found and all(path.endswith("_proj.base_layer.weight") for path in found)
    assert not any(model.get_parameter(path).requires_grad for path in found)
    assert error(found, truth) < 1e-5


def test_virtual_tokens_before_the_text() -> None:
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model, batch = get_peft_model(build("llama"), settings).eval(), rows()
    batch["labels"][:, :2] = batch["input_ids"][:, :2]
    assert error(fisher(model, split(batch, 2)), squared_batch_gradient(model, split(batch, 1))) < 1e-5


def test_a_layer_applied_several_times_adds_its_gradients_before_squaring() -> None:
    config = AlbertConfig(
        vocab_size=96, embedding_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model, batch = AlbertForMaskedLM(config).eval(), rows()
    assert error(fisher(model, [batch]), looped(model, batch)) < 1e-5


class Odd(nn.Module):
    """Every habit that a rule does not expect: a bare parameter, a head by function, another layout, in-place sums."""

    def __init__(self, time_first: bool):
        super().__init__()
        torch.manual_seed(0)
        self.time_first = time_first
        self.embed, self.mix, self.last = nn.Embedding(96, 16, padding_idx=0), nn.Linear(16, 16), nn.Linear(16, 16)
        self.scale = nn.Parameter(torch.rand(16))
        self.unused = nn.Linear(16, 16)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, attention_mask: Any = None) -> CausalLMOutput:
        hidden = self.embed(input_ids)
        hidden += 1.0
        hidden = hidden.cumsum(1) * self.scale
        hidden = self.mix(hidden.transpose(0, 1)).transpose(0, 1) if self.time_first else self.mix(hidden)
        hidden = self.last(hidden).relu_()
        logits = linear(hidden, self.embed.weight)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


@pytest.mark.parametrize("time_first", [True, False])
@pytest.mark.parametrize("length", [6, 9])
def test_what_no_rule_covers_is_looped_and_named(time_first: bool, length: int, caplog: Any) -> None:
    model, batch = Odd(time_first), rows(count=6, length=length)
    with caplog.at_level(logging.DEBUG, logger="holdfast"):
        found = fisher(model, split(batch, 6))
    assert error(found, looped(model, batch)) < 1e-5
    assert "'scale'" in caplog.text and "'embed.weight'" in caplog.text
    assert ("'mix.weight'" in caplog.text) == time_first


def test_a_wrong_rule_is_found_out(monkeypatch: Any, caplog: Any) -> None:
    def wrong(call: Any, name: str, grad: Tensor) -> Any:
        return layer_gradients._linear(call, name, 1.01 * grad)

    monkeypatch.setitem(layer_gradients.RULES, nn.Linear, wrong)
    model, batch = build("llama"), rows()
    with caplog.at_level(logging.DEBUG, logger="holdfast"):
        assert error(fisher(model, [batch]), looped(model, batch)) < 1e-5
    assert caplog.text.count("_proj.weight'") == 3 * 7 and "norm" not in caplog.text


class ChannelsFirst(nn.Module):
    """A norm whose features do not come last."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 16)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("norm", [ChannelsFirst(), nn.RMSNorm(16), nn.LayerNorm(16, bias=False)])
@pytest.mark.parametrize("length", [9, 16])
def test_any_norm(norm: nn.Module, length: int) -> None:
    model, batch = Odd(time_first=False), rows(length=length)
    model.mix = nn.Sequential(model.mix, norm)
    nn.init.normal_(next(norm.parameters()), generator=torch.Generator().manual_seed(0))
    assert error(fisher(model, [batch]), looped(model, batch)) < 1e-5


def test_the_seven_architectures_need_a_loop_for_relative_positions_alone(caplog: Any) -> None:
    for arch in ARCHITECTURES:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger="holdfast"):
            fisher(build(arch), [rows()])
        assert caplog.text.count("weight'") == (2 if arch == "t5" else 0), arch


def test_dropout_and_autocast_of_the_caller_stay_out() -> None:
    model, batch = build("gpt2", dropout=0.5), rows()
    truth = looped(model, batch)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert error(fisher(model, [batch]), truth) < 1e-5


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context: Callable[[], Any]) -> None:
    model, batch = build("llama"), rows()
    truth = looped(model, batch)
    with context():
        found = fisher(model, [batch])
    assert error(found, truth) < 1e-5


def test_bfloat16_weights_give_float32_squares() -> None:
    model, batch = build("llama").bfloat16(), rows()
    found = fisher(model, [batch])
    assert all(t.dtype is torch.float32 for t in found.values())
    assert error(found, looped(build("llama").bfloat16().float(), batch)) < 0.1


def test_a_row_without_labels_counts_as_a_sequence() -> None:
    model, batch = build("llama"), rows(count=4)
    batch["labels"][2:] = -100
    half = fisher(model, [{k: v[:2] for k, v in batch.items()}])
    assert error({n: 2 * t for n, t in fisher(model, [batch]).items()}, half) < 1e-5


def trace(model: nn.Module) -> list[Any]:
    """Everything about a model that must be as before, except its values."""
    modules = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()
    ]
    return modules + [
        (p.requires_grad, id(p.grad), len(p._post_accumulate_grad_hooks or ()), len(p._backward_hooks or ()))
        for p in model.parameters()
    ]


def prepared(arch: str) -> nn.Module:
    """A model with mixed modes, flags and gradients."""
    model = build(arch, dropout=0.1).train()
    for i, (module, p) in enumerate(zip(model.modules(), model.parameters(), strict=False)):
        module.training = i % 3 != 0
        p.requires_grad_(i % 2 == 0)
        p.grad = torch.full_like(p, float(i)) if i % 4 == 0 else None
    return model


@pytest.mark.parametrize("arch", ["llama", "t5"])
def test_leaves_nothing_behind(arch: str) -> None:
    model = prepared(arch)
    before, state = trace(model), torch.get_rng_state()
    values = [p.detach().clone() for p in model.parameters()]
    fisher(model, split(rows(), 2))
    assert trace(model) == before and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, v) for p, v in zip(model.parameters(), values, strict=True))


@pytest.mark.parametrize("where", ["forward", "backward", "progress"])
@pytest.mark.parametrize("call", [1, 3])
def test_leaves_nothing_behind_after_an_exception(where: str, call: int) -> None:
    model, calls = prepared("llama"), []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) >= call:
            raise KeyboardInterrupt

    before = trace(model)
    layer = model.model.layers[1].mlp
    hooks = {"forward": layer.register_forward_hook, "backward": layer.register_full_backward_hook}
    handle = hooks[where](fail) if where in hooks else None
    with pytest.raises(KeyboardInterrupt):
        fisher(model, split(rows(), 1), progress=fail if where == "progress" else None)
    if handle:
        handle.remove()
    assert trace(model) == before


def test_progress_counts_sequences() -> None:
    seen: list[int] = []
    fisher(build("llama"), split(rows(), 2), progress=seen.append)
    assert seen == [2, 4, 5]


def test_bad_requests_say_what_to_do() -> None:
    model, batch = build("llama"), rows()
    with pytest.raises(UnknownName, match=r"model\.norm\.weight"):
        fisher(model, [batch], paths={"model.norm.wieght"})
    with pytest.raises(BadInput, match="at least one batch"):
        fisher(model, [])
    with pytest.raises(BadInput, match="LoRA"):
        product_fisher(model, [batch])
    with pytest.raises(Unsupported, match="logits"):
        fisher(model.model, [batch])
    with pytest.raises(BadInput, match="no parameter"):
        fisher(model.requires_grad_(False), [batch])


def test_normalised_has_joint_mean_one_and_keeps_ratios() -> None:
    importance = {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([[2.0, 11.0, 0.0, 0.0]])}
    scaled = normalised(importance)
    assert torch.cat([t.flatten() for t in scaled.values()]).mean() == pytest.approx(1.0)
    assert all(torch.allclose(scaled[n] * 3.0, importance[n]) for n in importance)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_importance_that_has_no_scale_is_refused(value: float) -> None:
    with pytest.raises(BadInput, match="mean"):
        normalised({"a": torch.full((3,), value)})
