"""Rows: what is learnt and what is not, token by token, and how rows become batches."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from holdfast import tiny
from holdfast._errors import BadInput
from holdfast.data.formats import Completion, Text
from holdfast.data.packing import packed, windows
from holdfast.data.rows import (
    TOGETHER,
    all_tokens,
    collate,
    completion,
    digest,
    documents,
    encode,
    length_sorted_batches,
    rows,
    separation,
    start,
    tokens,
)

BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The embedded tokenizer, with BOS 1 and EOS 2."""
    made = AutoTokenizer.from_pretrained(tiny.MODEL)
    made.bos_token, made.eos_token = "<s>", "</s>"
    return made


def test_packed_rows_are_the_stream_in_pieces(tokenizer: Any) -> None:
    texts = ["Once upon a time there was a boat.", "It sank.", "The end of the story, at last."]
    made = rows([Text(t) for t in texts], tokenizer, length=8)
    first, second, third = (tokens(tokenizer, t) for t in texts)
    stream = [*first, EOS, BOS, *second, EOS, BOS, *third]
    assert all(len(row["input_ids"]) == len(row["labels"]) == 8 for row in made)
    assert all(row["input_ids"][0] == BOS for row in made)
    assert [t for row in made for t in row["input_ids"][1:]] == stream[: 7 * len(made)]
    assert 0 <= len(stream) - 7 * len(made) < 7


def test_what_a_packed_row_learns() -> None:
    first, second = packed([[5, 6], [7, 8], [9, 10, 11, 12, 13, 14, 15, 16]], [BOS], [EOS, BOS], length=9, overlap=0)
    assert first["input_ids"] == [BOS, 5, 6, EOS, BOS, 7, 8, EOS, BOS]
    assert first["labels"] == [-100, 5, 6, EOS, -100, 7, 8, EOS, -100]
    assert second == {"input_ids": [BOS, *range(9, 17)], "labels": [-100, *range(9, 17)]}


def test_a_row_inside_a_text_does_not_learn_its_first_token() -> None:
    made = packed([[5, 6, 7, 8, 9, 10]], [BOS], [], length=4, overlap=0)
    assert [row["labels"] for row in made] == [[-100, 5, 6, 7], [-100, -100, 9, 10]]
    assert [row["labels"] for row in packed([[5, 6, 7], [8, 9, 10]], [BOS], [], length=4, overlap=0)] == [
        [-100, 5, 6, 7],
        [-100, 8, 9, 10],
    ]


def test_a_text_shorter_than_a_row_stands_in_a_short_one() -> None:
    assert packed([[5, 6]], [BOS], [EOS], length=9, overlap=0) == [{"input_ids": [BOS, 5, 6], "labels": [-100, 5, 6]}]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(3, 20), st.integers(0, 17), st.booleans())
def test_windows_learn_each_token_once_and_see_overlap_before_it(n: int, length: int, overlap: int, bos: bool) -> None:
    begin = [BOS] if bos else []
    overlap = min(overlap, length - 2)
    document = list(range(100, 100 + n))
    made = windows(document, begin, length=length, overlap=overlap)
    scored = [token for row in made for token in row["labels"] if token != -100]
    assert len(set(scored)) == len(scored)
    assert set(scored) == set(document) if overlap else {document[0], document[-1]} <= {*scored, *document[-1:]}
    for row in made[1:]:
        ids = row["input_ids"]
        assert len(ids) == length
        assert row["labels"].index(next(t for t in row["labels"] if t != -100)) >= len(begin) + max(overlap, 1)


def test_unpacked_texts_do_not_mix(tokenizer: Any) -> None:
    texts = [Text("A short one."), Text("Another, and this one is a good deal longer than the first one was.")]
    made = rows(texts, tokenizer, length=10, pack=False, overlap=3)
    alone = [row for text in texts for row in encode(text, tokenizer, length=10, overlap=3)[0]]
    assert [{k: row[k] for k in ("input_ids", "labels")} for row in made] == alone
    assert all(EOS not in row["input_ids"] and row["input_ids"].count(BOS) == 1 for row in made)
    assert [t for row in made for t in row["labels"] if t != -100] == [
        t for text in texts for t in tokens(tokenizer, text.text)
    ]


def test_only_the_completion_is_learnt(tokenizer: Any) -> None:
    (row,) = rows([Completion("Where is the cat?", " On the mat.")], tokenizer, length=64)
    whole = tokens(tokenizer, "Where is the cat? On the mat.")
    assert row["input_ids"] == [BOS, *whole, EOS]
    taught = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(taught[:-1]).strip() == "On the mat."
    assert taught[-1] == EOS
    assert row["labels"][: -len(taught)] == [-100] * (len(row["labels"]) - len(taught))


def test_prompt_and_completion_are_encoded_as_one_text(tokenizer: Any) -> None:
    for prompt, answer in [("Where?", " bedroom"), ("a\n", "b"), ("play", "ground"), ("二", "三"), ("", "x")]:
        before, after = completion(Completion(prompt, answer), tokenizer)
        assert before + after == tokens(tokenizer, prompt + answer)
        assert tokens(tokenizer, prompt)[: len(before)] == before
        assert after


def test_many_at_once_are_each_by_itself_in_their_order(tokenizer: Any) -> None:
    texts = [f"The {i}th cat sat on mat {i * i}." for i in range(TOGETHER + 7)] + [""]
    assert all_tokens(tokenizer, texts) == [tokens(tokenizer, text) for text in texts]
    records = [Completion(text, " Yes.") if i % 3 else Text(text) for i, text in enumerate(texts[:20])]
    alone = [row for record in records for row in encode(record, tokenizer, length=24)[0]]
    together = rows(records, tokenizer, length=24, pack=False)
    assert [row["input_ids"] for row in together] == [row["input_ids"] for row in alone]
    assert all_tokens(tokenizer, []) == []


def test_truncation_keeps_the_end_of_the_prompt_and_says_so(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    record = Completion("far away and long ago there lived a king", " yes")
    context, answer = completion(record, tokenizer)
    with caplog.at_level(logging.WARNING, "holdfast"):
        (row,) = rows([record], tokenizer, length=len(answer) + 5)
    assert row["input_ids"] == [BOS, *context[-3:], *answer, EOS]
    assert "1 of 1 records were longer than" in caplog.text
    (cut,) = rows([record], tokenizer, length=2)
    assert cut == {"input_ids": [BOS, answer[0]], "labels": [-100, answer[0]]}


def test_rows_with_nothing_to_learn_are_dropped_and_counted(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "holdfast"):
        assert len(rows([Text(""), Text("Hello there.")], tokenizer, length=32, pack=False)) == 1
    assert "1 rows had nothing to learn and were dropped" in caplog.text


@pytest.mark.parametrize(("length", "overlap"), [(1, 0), (8, 7), (8, -1)])
def test_impossible_lengths_are_refused(tokenizer: Any, length: int, overlap: int) -> None:
    with pytest.raises(BadInput, match="at least 2 tokens"):
        rows([Text("a")], tokenizer, length=length, overlap=overlap)


def test_marks_follow_the_tokenizer() -> None:
    class Marks:
        bos_token_id: int | None = None
        eos_token_id: int | None = None

    marks: Any = Marks()
    assert (start(marks), separation(marks)) == ([], [])
    marks.eos_token_id = 2
    assert (start(marks), separation(marks)) == ([], [2])
    marks.bos_token_id = 1
    assert (start(marks), separation(marks)) == ([1], [2, 1])
    marks.bos_token_id = 2
    assert (start(marks), separation(marks)) == ([2], [2])


def test_collate_pads_right_and_masks_only_where_it_must() -> None:
    short, long = {"input_ids": [3, 4], "labels": [-100, 4]}, {"input_ids": [5, 6, 7], "labels": [5, 6, 7]}
    batch = collate([short, long], 9)
    assert batch["input_ids"].tolist() == [[3, 4, 9], [5, 6, 7]]
    assert batch["labels"].tolist() == [[-100, 4, -100], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert set(collate([long, long], 9)) == {"input_ids", "labels"}
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_hold_every_row_once_within_bounds(lengths: list[int], most: int) -> None:
    batches = list(length_sorted_batches(lengths, most))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= most for batch in batches)
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths, reverse=True)


def test_the_digest_tells_rows_apart() -> None:
    row = {"input_ids": [1, 2, 3], "labels": [1, 2, 3]}
    others = [[], [row, row], [{**row, "labels": [-100, 2, 3]}], [{"input_ids": [1, 2], "labels": [1, 2]}]]
    assert digest([row]) == digest([{k: list(v) for k, v in row.items()}])
    assert len({digest(r) for r in [[row], *others]}) == 5


def test_rows_know_which_text_they_are_from_through_every_cut(tokenizer: Any) -> None:
    texts = [Text("Once upon a time there was a boat. " * n) for n in (6, 1, 4)]
    made = rows(texts, tokenizer, length=16, pack=False, overlap=2)
    counts = [len(rows([text], tokenizer, length=16, pack=False, overlap=2)) for text in texts]
    assert documents(made) == [i for i, count in enumerate(counts) for _ in range(count)]
    cut = [{key: values[1:] for key, values in row.items()} for row in made]
    assert documents(cut) == documents(made)
    assert documents(rows(texts, tokenizer, length=16)) == list(range(len(rows(texts, tokenizer, length=16))))
    assert documents([made[-1], made[0], made[1]]) == [0, 1, 1]
