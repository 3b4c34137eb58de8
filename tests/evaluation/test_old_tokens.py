"""Base and tuned model over the old tokens alone, against a loop over examples."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from holdfast.evaluation.old_tokens import beside, old_rows
from holdfast.vocabulary.rows import embedding_of, fold, lay
from tests.models import build

ROWS = [
    {"input_ids": [1, 5, 9, 4, 7], "labels": [-100, 5, 9, 4, 7]},
    {"input_ids": [1, 3, 8], "labels": [-100, 3, 8]},
    {"input_ids": [1, 2, 6, 6, 2, 9], "labels": [-100, -100, 6, 6, 2, 9]},
]
OLD = 60


def pair(name: str = "llama", tied: bool = True) -> tuple[Any, Any]:
    """A model, and itself with five new rows that shout."""
    base = build(name, tied=tied)
    tuned = copy.deepcopy(base)
    width = base.get_input_embeddings().weight.shape[1]
    rows = torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    lay(tuned, OLD, rows, None if tied else 3 * rows)
    return base, tuned


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_new_rows_change_no_old_logit_no_hidden_state_and_no_old_row(name: str, tied: bool) -> None:
    base, tuned = pair(name, tied)
    found = beside(base, tuned, ROWS, OLD)
    assert (found.logit, found.rise.mean, found.rise.high) == (0.0, 0.0, 0.0)
    assert old_rows(base, tuned, OLD) == 0.0
    with torch.no_grad():
        ids = torch.tensor([ROWS[0]["input_ids"]])
        states = (m(ids, output_hidden_states=True).hidden_states for m in (base, tuned))
        assert all(torch.equal(old, new) for old, new in zip(*states, strict=True))
        assert not torch.equal(
            base(ids).logits.log_softmax(-1)[..., :OLD], tuned(ids).logits.log_softmax(-1)[..., :OLD]
        )  # probabilities are of more tokens


def test_the_rise_is_that_of_a_loop_over_rows() -> None:
    base, tuned = pair()
    with torch.no_grad():
        for param in tuned.parameters():
            param.add_(0.02 * torch.randn(param.shape, generator=torch.Generator().manual_seed(2)))
    rise, tokens, largest = 0.0, 0, 0.0
    with torch.no_grad():
        for row in ROWS:
            old, new = (m(torch.tensor([row["input_ids"]])).logits[0, :-1, :OLD] for m in (base, tuned))
            for place, label in enumerate(row["labels"][1:]):
                if label >= 0:
                    rise += float(old[place].log_softmax(-1)[label] - new[place].log_softmax(-1)[label])
                    largest = max(largest, float((new[place] - old[place]).abs().max()))
                    tokens += 1
    found = beside(base, tuned, ROWS, OLD)
    assert found.rise.mean == pytest.approx(rise / tokens, rel=1e-4)
    assert found.logit == pytest.approx(largest, rel=1e-4)
    assert found.rise.n == len(ROWS)


def test_what_new_tokens_take_is_that_of_a_loop_over_rows() -> None:
    base, tuned = pair()
    with torch.no_grad():
        for name, param in tuned.named_parameters():
            if name.endswith("new_rows"):
                param.mul_(5)
    mass, first, tokens = 0.0, 0, 0
    with torch.no_grad():
        for row in ROWS:
            logits = tuned(torch.tensor([row["input_ids"]])).logits[0, :-1]
            for place, label in enumerate(row["labels"][1:]):
                if label >= 0:
                    mass += float(logits[place].softmax(-1)[OLD:].sum())
                    first += int(logits[place].argmax() >= OLD)
                    tokens += 1
    found = beside(base, tuned, ROWS, OLD)
    assert found.mass == pytest.approx(mass / tokens, rel=1e-4) and found.mass > 0.01
    assert found.overtaken == pytest.approx(first / tokens)


def test_a_folded_model_is_compared_as_the_one_that_it_was() -> None:
    base, tuned = pair()
    before = beside(base, tuned, ROWS, OLD)
    fold(tuned)
    assert embedding_of(tuned) is None
    assert beside(base, tuned, ROWS, OLD).rise.mean == pytest.approx(before.rise.mean, abs=1e-6)


def test_one_number_in_one_row_is_found_in_embedding_and_head() -> None:
    for side in ("get_input_embeddings", "get_output_embeddings"):
        base = build("llama")
        tuned = copy.deepcopy(base)
        with torch.no_grad():
            getattr(tuned, side)().weight[7, 3] += 0.25
        assert old_rows(base, tuned, OLD) == pytest.approx(0.25)
        assert old_rows(base, tuned, 7) == 0.0


def test_an_adapter_on_the_embedding_counts_and_one_elsewhere_does_not() -> None:
    for target, moved in (("embed_tokens", True), ("up_proj", False)):
        base = build("llama")
        settings = LoraConfig(target_modules=[target], r=2, init_lora_weights=False)
        adapted = get_peft_model(copy.deepcopy(base), settings)
        assert (old_rows(base, adapted, OLD) > 0) is moved
