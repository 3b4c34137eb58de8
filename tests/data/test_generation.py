"""Sampling is exactly ancestral: token by token from the model's own distribution, whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, GPT2Config, MistralConfig, MistralForCausalLM

from holdfast.data import generation
from holdfast.data.generation import Draws, RoomyLayer, kv_bytes, sample
from holdfast.data.quiet import quiet
from tests.models import build


def draws(rows: int, length: int, temperature: float = 1.0) -> Draws:
    generator = torch.Generator().manual_seed(0)
    return Draws(
        torch.rand(rows, length, dtype=torch.float64, generator=generator),
        torch.full((rows, 1), temperature, dtype=torch.float64),
    )


def slowly(model: Any, starts: Tensor, luck: Draws, length: int) -> Tensor:
    """The same from first principles: no cache, and a plain search of the distribution function."""
    rows = []
    for row, ids in enumerate(starts.tolist()):
        while len(ids) < length:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
            weights = torch.softmax(logits / luck.temperature[row], 0).tolist()
            u, token = float(luck.uniforms[row, len(ids)]) * sum(weights), 0
            while sum(weights[: token + 1]) <= u:
                token += 1
            ids = [*ids, token]
        rows.append(ids)
    return torch.tensor(rows)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "gpt_neox", "opt"])
def test_samples_are_those_of_the_definition(arch: str) -> None:
    model = build(arch)
    starts, luck = torch.tensor([[1], [1], [5]]), draws(3, 12, temperature=0.7)
    with quiet(model):
        ids, given = sample(model, starts, luck, length=12, follow=None)
        assert torch.equal(ids, slowly(model, starts, luck, 12))
    assert given.tolist() == [[True] + [False] * 11] * 3


def test_a_sliding_window_keeps_its_own_cache() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = MistralForCausalLM(MistralConfig(vocab_size=50, num_key_value_heads=1, sliding_window=4, **shape)).eval()
    starts, luck = torch.tensor([[1], [2]]), draws(2, 14)
    with quiet(model):
        ids, _ = sample(model, starts, luck, length=14, follow=None)
        assert torch.equal(ids, slowly(model, starts, luck, 14))


def test_each_token_comes_as_often_as_its_probability() -> None:
    logits = torch.tensor([2.0, 0.0, -float("inf"), 1.0, -1.0])
    n = 100_000
    even = ((torch.arange(n) + 0.5) / n).double()[:, None]
    luck = Draws(even, torch.full((n, 1), 2.0, dtype=torch.float64))
    drawn = luck.token(logits.expand(n, -1), 0)[:, 0]
    shares = torch.bincount(drawn, minlength=5) / n
    assert torch.allclose(shares, torch.softmax(logits / 2, 0), atol=2 / n)
    assert shares[2] == 0


def test_the_batch_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    starts, luck = torch.ones(7, 1, dtype=torch.int64), draws(7, 16)
    with quiet(model):
        whole, _ = sample(model, starts, luck, length=16, follow=None)
        monkeypatch.setattr(generation, "KV_BYTES", 3 * 16 * kv_bytes(model))
        assert torch.equal(sample(model, starts, luck, length=16, follow=None)[0], whole)
        monkeypatch.setattr(generation, "LOGITS", 1)
        assert torch.equal(sample(model, starts, luck, length=16, follow=None)[0], whole)


def test_after_the_end_of_a_document_the_next_begins() -> None:
    model = build("llama")
    starts, luck = torch.ones(64, 1, dtype=torch.int64), draws(64, 40)
    with quiet(model):
        ids, given = sample(model, starts, luck, length=40, follow=(2, 1))
    ended = ids[:, :-1] == 2
    assert ended[:, 1:].sum() > 5
    assert (ids[:, 1:][ended] == 1).all()
    assert torch.equal(given[:, 1:], ended)
    assert not (ids[:, -1] == 0).all()


def test_the_roomy_layer_holds_what_the_library_layer_holds() -> None:
    model = build("llama")
    ids = torch.randint(3, 90, (2, 9))
    plain, roomy = DynamicCache(config=model.config), DynamicCache(config=model.config)
    roomy.layers = [RoomyLayer(9) for _ in roomy.layers]
    with torch.no_grad():
        for at in range(9):
            step = ids[:, at : at + 1]
            a = model(input_ids=step, past_key_values=plain).logits
            b = model(input_ids=step, past_key_values=roomy).logits
            assert torch.allclose(a, b, atol=1e-6)
    for ours, theirs in zip(roomy.layers, plain.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
    assert roomy.get_seq_length() == plain.get_seq_length() == 9


def test_the_memory_of_a_token_is_known() -> None:
    held = _filled(build("llama")).layers
    assert kv_bytes(build("llama")) == sum(2 * layer.keys[:, :, 0].numel() * 4 for layer in held)
    assert kv_bytes(build("gpt2")) == 2 * GPT2Config(n_layer=3, n_embd=16).n_layer * 16 * 4


def _filled(model: Any) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.tensor([[1]]), past_key_values=cache)
    return cache
