"""The Trainer that reads text: old and new argument names, tokens or text, and rules of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset

from holdfast import load_base
from holdfast._errors import BadInput
from holdfast.llm.trainers import TextTrainer
from holdfast.strategies.frozen import Frozen
from tests.llm.training import NEW, OLD, ROWS, arguments, values
from tests.models import build


@pytest.mark.parametrize("name", ["tokenizer", "processing_class"])
def test_text_is_learnt_under_both_names_of_the_tokenizer(name: str, tmp_path: Path) -> None:
    base = load_base("tiny")
    before = values(base.model)
    trainer = TextTrainer(
        base.model, arguments(tmp_path), train_dataset=NEW, eval_dataset={"old": OLD}, **{name: base.tokenizer}
    )
    assert isinstance(trainer, transformers.Trainer) and trainer.processing_class is base.tokenizer
    first = trainer.evaluate()["eval_old_loss"]
    trainer.train()
    assert not torch.equal(before["model.norm.weight"], base.model.model.norm.weight)
    assert trainer.evaluate()["eval_old_loss"] != first


def test_tokens_train_as_text_does(tmp_path: Path) -> None:
    base, other = load_base("tiny"), load_base("tiny")
    text = TextTrainer(base.model, arguments(tmp_path), train_dataset=NEW, tokenizer=base.tokenizer)
    tokens = Dataset.from_list([{k: row[k] for k in ("input_ids", "labels")} for row in text.rows(NEW)])
    ready = TextTrainer(other.model, arguments(tmp_path), train_dataset=tokens)
    for trainer in (text, ready):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(base.model.parameters(), other.model.parameters(), strict=True))


def test_a_collator_of_ones_own_gets_the_items_as_they_are(tmp_path: Path) -> None:
    seen = []

    def collate(items: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        seen.extend(items)
        return {key: torch.tensor([item[key] for item in items]) for key in ("input_ids", "labels")}

    TextTrainer(build("llama"), arguments(tmp_path), train_dataset=ROWS, data_collator=collate).train()
    assert [item["input_ids"] for item in seen] == [row["input_ids"] for row in ROWS]


def test_rules_of_ones_own_have_their_say(tmp_path: Path) -> None:
    model = build("llama")
    before = values(model)
    TextTrainer(model, arguments(tmp_path), train_dataset=ROWS, rules=[Frozen("layers(0:2)")]).train()
    moved = {name for name, value in values(model).items() if not torch.equal(value, before[name])}
    assert moved and not any(".layers.0." in name or ".layers.1." in name for name in moved)


def test_two_tokenizers_and_text_without_one_are_refused(tmp_path: Path) -> None:
    base = load_base("tiny")
    with pytest.raises(BadInput, match="two names for one thing"):
        TextTrainer(base.model, arguments(tmp_path), tokenizer=base.tokenizer, processing_class=object())
    with pytest.raises(BadInput, match="tokenizer="):
        TextTrainer(base.model, arguments(tmp_path), train_dataset=NEW)
