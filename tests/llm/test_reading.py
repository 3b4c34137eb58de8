"""Data sets of any kind become the same rows, and what cannot be read is said."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from datasets import Dataset

from holdfast import load_base
from holdfast._errors import BadInput, BadRecord
from holdfast.data.rows import documents, rows
from holdfast.llm.reading import as_row, batch_of, longest, rows_of, rows_of_each
from tests.models import build

TEXTS = ["Once upon a time there was a dog.", "The end."]
TOKENIZER = load_base("tiny").tokenizer


@pytest.mark.parametrize(
    "dataset",
    [
        TEXTS,
        [{"text": text} for text in TEXTS],
        [{"text": text, "data_type": "replay", "label": None} for text in TEXTS],
        Dataset.from_dict({"text": TEXTS}),
    ],
)
def test_texts_are_rows_of_their_own_however_they_come(dataset: Any) -> None:
    assert rows_of(dataset, TOKENIZER, 32) == rows_of(TEXTS, TOKENIZER, 32)
    assert len(rows_of(dataset, TOKENIZER, 32)) == 2


def test_a_long_text_gives_rows_that_belong_together() -> None:
    given = [" ".join(TEXTS * 5), "The end."]
    found = rows_of_each(given, TOKENIZER, 16)
    assert [len(of_item) > 1 for of_item in found] == [True, False]
    assert documents(rows_of(given, TOKENIZER, 16))[-1] == 1


def test_an_answer_is_learnt_and_its_prompt_is_not() -> None:
    (row,) = rows_of([{"prompt": "one and one is", "answer": "two"}], TOKENIZER, 32)
    learnt = [label for label in row["labels"] if label != -100]
    assert TOKENIZER.decode(learnt, skip_special_tokens=True).strip() == "two"


def test_tokens_lose_their_pads_and_keep_their_labels() -> None:
    padded = {"input_ids": torch.tensor([0, 5, 6, 7]), "attention_mask": [0, 1, 1, 1], "labels": [-100, -100, 6, 7]}
    assert as_row(padded) == {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
    assert as_row({"input_ids": [5, 6]}) == {"input_ids": [5, 6], "labels": [5, 6]}
    assert rows_of([padded], None, 2) == [{"input_ids": [5, 6], "labels": [-100, 6]}]
    batch = batch_of([padded, {"input_ids": [8]}], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]


def test_what_is_cut_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "holdfast"):
        rows_of([{"prompt": "a " * 40, "completion": "b"}, {"text": "fine"}], TOKENIZER, 16)
    assert "1 of 2 items were longer than 16 tokens" in caplog.text


@pytest.mark.parametrize(
    ("dataset", "tokenizer", "error", "match"),
    [
        ([], TOKENIZER, BadInput, "empty"),
        (TEXTS, None, BadInput, "tokenizer="),
        ([3], TOKENIZER, BadInput, "not a int"),
        ([{"story": "x"}], TOKENIZER, BadRecord, "the data set, line 1"),
        ([{"input_ids": [4]}], TOKENIZER, BadInput, "Nothing can be learnt"),
        ([{"input_ids": [4, 5], "labels": [4]}], TOKENIZER, BadInput, "2 tokens, 1 labels"),
    ],
)
def test_what_cannot_be_read_is_refused(dataset: Any, tokenizer: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        rows_of(dataset, tokenizer, 32)


def test_rows_are_those_of_the_data_room() -> None:
    from holdfast.data.formats import Text

    assert rows_of(TEXTS, TOKENIZER, 32) == rows([Text(t) for t in TEXTS], TOKENIZER, length=32, pack=False)


def test_a_row_is_as_long_as_the_model_reads() -> None:
    assert longest(build("llama")) == 64 and longest(torch.nn.Linear(2, 2)) == 512
