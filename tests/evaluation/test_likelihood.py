"""Metrics of likelihood by a loop over tokens, by hand, in half precision and for any batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.base import Base, load_base
from holdfast.data.formats import Completion, Record, Text
from holdfast.data.rows import start, tokens
from holdfast.evaluation.metrics import metrics
from holdfast.evaluation.scored import Scored
from holdfast.evaluation.suites import load_suite

TEXTS = ["Once upon a time, there was a cat.", "Tom went home. He was happy, for once.", "The dog ran."]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def scored(base: Base, name: str, examples: list[Record], **knobs: Any) -> Scored:
    return metrics[name](base.model, base.tokenizer, examples, **knobs)


def nats(base: Base, text: str) -> tuple[float, int]:
    """The loss of a text, one token after the other, each with all before it and no other way of batching."""
    ids = start(base.tokenizer) + tokens(base.tokenizer, text)
    total = 0.0
    for at in range(1, len(ids)):
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([ids[:at]])).logits[0, -1]
        total -= float(logits.double().log_softmax(-1)[ids[at]])
    return total, len(ids) - 1


@pytest.mark.parametrize("batch_tokens", [1, 30, 16384])
def test_loss_and_perplexity_are_those_of_a_loop_over_tokens(base: Base, batch_tokens: int) -> None:
    total, count = (sum(part) for part in zip(*(nats(base, text) for text in TEXTS), strict=True))
    examples: list[Record] = [Text(text) for text in TEXTS]
    assert scored(base, "loss", examples, batch_tokens=batch_tokens).figure == pytest.approx(total / count, rel=1e-5)
    found = scored(base, "perplexity", examples, batch_tokens=batch_tokens)
    assert found.figure == pytest.approx(math.exp(total / count), rel=1e-5)
    assert found.each()[1] == pytest.approx(math.exp(np.divide(*nats(base, TEXTS[1]))), rel=1e-5)


def test_bits_per_character_by_hand(base: Base) -> None:
    total = sum(nats(base, text)[0] for text in TEXTS)
    found = scored(base, "bits_per_character", [Text(text) for text in TEXTS])
    assert found.figure == pytest.approx(total / math.log(2) / sum(map(len, TEXTS)), rel=1e-5)
    assert (found.unit, found.higher) == ("bits per character", False)


def test_only_the_answer_counts_in_bits_per_character(base: Base) -> None:
    one = Completion("Once upon a time, there was a", " cat")
    total, characters = scored(base, "bits_per_character", [one]).stats[0]
    answer = nats(base, one.prompt + one.completion)[0] - nats(base, one.prompt)[0]
    assert characters == len(" cat")
    assert total == pytest.approx(answer / math.log(2), rel=1e-4)


def test_half_precision_is_near_single(base: Base) -> None:
    examples: list[Record] = [Text(text) for text in TEXTS]
    exact = scored(base, "loss", examples).figure
    half = load_base("tiny", dtype=torch.bfloat16)
    assert scored(half, "loss", examples).figure == pytest.approx(exact, rel=0.02)


def test_contexts_that_are_cut_are_scored_alike_for_any_batch(base: Base) -> None:
    tasks: list[Record] = list(load_suite("context-en").records[:3])
    found = [scored(base, "calibration_error", tasks, length=96, batch_tokens=size).stats for size in (1, 200, 16384)]
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)
