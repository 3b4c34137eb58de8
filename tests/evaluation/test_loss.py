"""Losses: transformers' own figures, the same in any batch, and not a trace left in the model."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast._errors import BadInput, Unsupported
from holdfast.data.rows import Row, collate, learnt
from holdfast.evaluation import loss
from holdfast.evaluation.loss import ScoreCache, SequenceLosses, sequence_kl, sequence_losses
from tests.models import build

ARCHITECTURES = ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "lora"]


def some_rows(n: int = 11, longest: int = 20, seed: int = 0) -> list[Row]:
    """Rows of many lengths, with prompts that bear no loss; one of them bears none at all."""
    draw = random.Random(seed)
    rows = []
    for _ in range(n):
        ids = [draw.randrange(3, 96) for _ in range(draw.randrange(2, longest + 1))]
        prompt = draw.randrange(len(ids))
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return [*rows, {"input_ids": [5, 6, 7], "labels": [-100] * 3}]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_figures_are_those_of_transformers(arch: str) -> None:
    model, rows = build(arch), some_rows()
    ours = sequence_losses(model, rows)
    for i, row in enumerate(rows):
        assert ours.tokens[i] == learnt(row)
        if learnt(row):
            with torch.no_grad():
                theirs = model(**collate([row], 0)).loss
            assert float(ours.each()[i]) == pytest.approx(float(theirs), rel=1e-5)
        else:
            assert ours.total[i] == 0
            assert math.isnan(ours.each()[i])


def test_the_mean_is_that_of_one_big_batch() -> None:
    model, rows = build("llama"), some_rows()
    with torch.no_grad():
        theirs = float(model(**collate(rows, 0)).loss)
    ours = sequence_losses(model, rows)
    assert ours.mean() == pytest.approx(theirs, rel=1e-5)
    assert ours.perplexity() == pytest.approx(math.exp(theirs), rel=1e-5)
    assert ours.total.dtype == torch.float64
    assert len(ours) == len(rows)


@pytest.mark.parametrize("batch_tokens", [1, 33, 100, 10**6])
@pytest.mark.parametrize("pad_id", [0, 17])
def test_batch_size_and_padding_change_nothing(batch_tokens: int, pad_id: int) -> None:
    model, rows = build("llama"), some_rows()
    one, other = sequence_losses(model, rows), sequence_losses(model, rows, pad_id=pad_id, batch_tokens=batch_tokens)
    assert torch.allclose(one.total, other.total, rtol=1e-5, atol=1e-6)
    assert torch.equal(one.tokens, other.tokens)


def test_the_order_of_rows_changes_nothing() -> None:
    model, rows = build("llama"), some_rows()
    order = list(range(len(rows)))
    random.Random(1).shuffle(order)
    mixed = sequence_losses(model, [rows[i] for i in order]).total
    assert torch.allclose(mixed, sequence_losses(model, rows).total[order], rtol=1e-5)


def test_a_large_vocabulary_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = build("llama"), some_rows()
    whole = sequence_losses(model, rows)
    base = build("llama", seed=1)
    divergence = sequence_kl(model, lambda batch: base(**batch), rows)
    monkeypatch.setattr(loss, "CHUNK", 96 * 5)
    assert torch.equal(sequence_losses(model, rows).total, whole.total)
    assert torch.equal(sequence_kl(model, lambda batch: base(**batch), rows).total, divergence.total)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"].numel()), with_kwargs=True)
    monkeypatch.setattr(loss, "LOGITS", 96 * 40)
    assert torch.allclose(sequence_losses(model, rows).total, whole.total, rtol=1e-5)
    assert max(seen) <= 40


def test_no_trace_is_left_in_the_model() -> None:
    model = build("llama", dropout=0.5)
    model.train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one = sequence_losses(model, some_rows())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(one.total, sequence_losses(model.eval(), some_rows()).total)


def test_the_callers_autocast_changes_nothing() -> None:
    model, rows = build("llama"), some_rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sequence_losses(model, rows)
    assert torch.equal(inside.total, sequence_losses(model, rows).total)


def test_any_module_with_logits_will_do() -> None:
    class Bigram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(96, 96)

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor]:
            return (self.table(input_ids),)

    model, (row, *_) = Bigram(), some_rows()
    logs = model.table.weight.detach().log_softmax(-1).double()
    pairs = zip(row["input_ids"], row["labels"][1:], strict=False)
    expected = -sum(float(logs[a, b]) for a, b in pairs if b != -100)
    assert float(sequence_losses(model, [row]).total[0]) == pytest.approx(expected, rel=1e-5)


def test_nothing_to_score_is_an_error_when_asked_for_a_mean() -> None:
    assert len(sequence_losses(build("llama"), [])) == 0
    with pytest.raises(BadInput, match="no token to score"):
        sequence_losses(build("llama"), [{"input_ids": [1, 2], "labels": [-100, -100]}]).mean()
    with pytest.raises(Unsupported, match="decoder-only"):
        sequence_losses(build("t5"), some_rows())


def test_perplexity_survives_what_exp_does_not() -> None:
    assert SequenceLosses(torch.tensor([1e6]).double(), torch.tensor([1])).perplexity() == math.inf
    assert math.isnan(SequenceLosses(torch.tensor([math.nan]).double(), torch.tensor([1])).perplexity())


def test_divergence_is_that_of_the_distributions() -> None:
    model, base, rows = build("llama"), build("llama", seed=1), some_rows()
    ours = sequence_kl(model, lambda batch: base(**batch).logits, rows)
    for i, row in enumerate(rows):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            p, q = (
                torch.distributions.Categorical(logits=m(input_ids=ids).logits[0, :-1].double()) for m in (base, model)
            )
        kept = torch.tensor(row["labels"][1:]) != -100
        expected = torch.distributions.kl_divergence(p, q)[kept].sum()
        assert float(ours.total[i]) == pytest.approx(float(expected), rel=1e-4, abs=1e-6)
    assert torch.equal(ours.tokens, sequence_losses(model, rows).tokens)


def test_there_is_no_divergence_from_oneself_and_whole_outputs_will_do() -> None:
    model, rows = build("llama"), some_rows()
    same = sequence_kl(model, lambda batch: model(**batch), rows)
    assert float(same.total.abs().max()) < 1e-5


def test_the_base_is_scored_once(tmp_path: Path) -> None:
    model, rows = build("llama"), some_rows()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))

    def scored(cache: ScoreCache, digest: str = "base", given: Any = rows, **options: int) -> bool:
        before = len(calls)
        found = cache.losses(digest, model, given, **options)
        assert torch.equal(found.total, sequence_losses(build("llama"), given, **options).total)
        return len(calls) > before

    cache = ScoreCache(tmp_path)
    assert scored(cache)
    assert not scored(cache)
    assert scored(cache, digest="another")
    assert scored(cache, given=rows[:-1])
    assert scored(cache, batch_tokens=40)
    assert not scored(ScoreCache(tmp_path))
    assert scored(ScoreCache())
    for path in (tmp_path / "scores").iterdir():
        path.write_bytes(path.read_bytes()[:-8])
    assert scored(ScoreCache(tmp_path))
