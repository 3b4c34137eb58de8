"""Distillation: the divergence from the base on replayed rows, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from holdfast._errors import Unsupported
from holdfast.remedies.distill import Distill, token_kl
from holdfast.remedies.replay import Replay
from holdfast.rule import REPLAYED
from tests.test_every_rule import ROWS, batches, model_of, started


def test_token_kl_is_the_divergence_that_torch_computes() -> None:
    base, model = torch.randn(6, 11), torch.randn(6, 11)
    expected = kl_divergence(Categorical(logits=base), Categorical(logits=model))
    assert torch.allclose(token_kl(base, model), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_the_penalty_is_the_mean_divergence_over_replayed_tokens(kind: str) -> None:
    short = [{"input_ids": r["input_ids"][:7], "labels": r["labels"][:7]} for r in ROWS[:8]]
    rule = Distill(3.0)
    run = started(kind, [Replay(short, 0.5), rule])
    for batch in batches(3):
        run.advance(batch)
    base = model_of(kind).eval()
    mixed = run.batch([batches(1, seed=9)[0]])[0]
    inputs = {k: v for k, v in mixed.items() if k not in (REPLAYED, "labels")}
    run.model.eval()
    outputs = run.model(**inputs)
    penalty = rule.penalty(run, mixed, outputs)
    theirs = base(**inputs).logits
    real = mixed["attention_mask"].bool() & mixed[REPLAYED][:, None]
    expected = kl_divergence(Categorical(logits=theirs[real]), Categorical(logits=outputs.logits[real])).mean()
    assert penalty is not None
    assert float(penalty) == pytest.approx(3.0 * float(expected), rel=1e-3)
    assert rule.divergence == pytest.approx(float(expected), rel=1e-3)


def test_at_the_base_itself_the_divergence_is_zero() -> None:
    rule = Distill()
    run = started("llama", [Replay(ROWS[:8], 0.5), rule])
    run.model.eval()
    mixed = run.batch(batches(1))[0]
    rule.penalty(run, mixed, run.model(**{k: v for k, v in mixed.items() if k != REPLAYED}))
    assert abs(rule.divergence) < 1e-7


def test_without_replay_or_logits_it_says_so() -> None:
    with pytest.raises(Unsupported, match="replay"):
        started("llama", [Distill()])
    run = started("llama", [Replay(ROWS[:8], 0.5), rule := Distill()])
    with pytest.raises(Unsupported, match="logits"):
        rule.penalty(run, run.batch(batches(1))[0], {"logits": None})
