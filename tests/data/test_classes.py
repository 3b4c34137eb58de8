"""Labelled texts: which records are read, how labels are ordered and weighed, and what is refused, with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.utils.class_weight import compute_class_weight

from holdfast._errors import BadInput, BadRecord, UnknownName
from holdfast.base import load_base
from holdfast.data.classes import balanced, class_names, class_rows, labelled, shares
from holdfast.data.formats import Completion
from holdfast.data.rows import answer, collate, digest, learnt


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"text": "a", "label": "x"}, "x"),
        ({"text": "a", "label": 3}, "3"),
        ({"text": "a", "label": 3, "label_text": "x"}, "x"),
        ({"sentence": "a", "label": " x "}, "x"),
    ],
)
def test_each_form_is_read(fields: dict[str, Any], label: str) -> None:
    assert labelled([fields]) == [Completion("a", label)]


def test_a_mapping_names_other_fields() -> None:
    given = [{"prompt": "a", "answer": "x", "text": "b"}]
    assert labelled(given, mapping={"text": "prompt", "label": "answer"}) == [Completion("a", "x")]
    with pytest.raises(UnknownName, match="labelled text"):
        labelled(given, mapping={"texts": "prompt"})
    with pytest.raises(BadRecord, match="line 1: the mapping asks for anser"):
        labelled(given, mapping={"label": "anser"})


def test_csv_and_parquet_hold_labels_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nsea,1\nrock,0\n", "utf-8")
    pq.write_table(pa.table({"text": ["sea", "rock"], "label": [1, 0]}), tmp_path / "a.parquet")
    wanted = [Completion("sea", "1"), Completion("rock", "0")]
    assert labelled(tmp_path / "a.csv") == labelled(tmp_path / "a.parquet") == wanted


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": "a", "label": 0.5}, "the label 0.5 is a float"),
        ({"text": "a", "label": True}, "the label True is a bool"),
        ({"text": "a", "label": ""}, "the label is empty"),
        ({"text": " ", "label": "x"}, "the text is empty"),
        ({"text": 3, "label": "x"}, "the text is 3"),
        ({"text": "a"}, "there is no `label`"),
        ({"label": "x"}, "there is no `text`"),
        ({"text": "a", "label": None}, "there is no `label`"),
        ({"text": "a", "label": "z"}, "the label 'z' is none of x, y"),
    ],
)
def test_a_bad_record_is_named_by_its_place(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, [{"text": "a", "label": "x"}, fields])), "utf-8")
    with pytest.raises(BadRecord, match=f"a.jsonl, line 2: {said}"):
        labelled(file, names=["x", "y"])


def test_names_are_sorted_integers_by_size_or_as_given() -> None:
    words, numbers = ([Completion("a", label) for label in labels] for labels in ("bac", ("10", "2", "-1")))
    assert class_names(words) == ["a", "b", "c"]
    assert class_names(numbers) == ["-1", "2", "10"]
    assert class_names(words, ["c", "a", "b"]) == ["c", "a", "b"]
    with pytest.raises(BadInput, match="at least two labels"):
        class_names(words[:1])
    with pytest.raises(BadInput, match="each named once"):
        class_names(words, ["a", "a"])
    with pytest.raises(BadInput, match="No record has the label d"):
        class_names(words, ["a", "b", "c", "d"])


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = ["a"] * 7 + ["b"] * 2 + ["c"]
    records = [Completion("t", label) for label in labels]
    theirs = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels)
    assert balanced(records, ["a", "b", "c"]) == pytest.approx(theirs.tolist())
    assert shares(records, ["c", "b", "a"]) == [0.1, 0.2, 0.7]


def test_rows_are_what_the_tokenizer_gives_cut_to_their_length() -> None:
    tokenizer = load_base("tiny").tokenizer
    records = [Completion("Once upon a time", "y"), Completion("there was a cat", "x")]
    rows = class_rows(records, ["x", "y"], tokenizer, length=4)
    assert [row["input_ids"] for row in rows] == [tokenizer(r.prompt)["input_ids"][:4] for r in records]
    assert [answer(row) for row in rows] == [[1], [0]] and [learnt(row) for row in rows] == [1, 1]
    assert digest(rows) != digest([{**row, "label": [0]} for row in rows])
    batch = collate([{"input_ids": [5], "label": [1]}, *rows], 0)
    assert batch["labels"].tolist() == [1, 1, 0] and batch["attention_mask"].sum(1).tolist()[0] == 1
