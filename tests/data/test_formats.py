"""Records are recognised by their keys; a bad one is named by its place and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast._errors import BadInput, BadRecord, UnknownName
from holdfast.data.formats import Chat, Completion, Text, parse, read

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


@pytest.mark.parametrize(
    ("fields", "record"),
    [
        ({"text": "a", "id": 3}, Text("a")),
        ({"prompt": "write", "text": "a story", "kind": "x"}, Text("a story")),
        ({"prompt": "a ", "completion": "b"}, Completion("a ", "b")),
        ({"prompt": [USER], "completion": [ASSISTANT]}, Chat((USER, ASSISTANT), context=1)),
        ({"prompt": "Where?", "answer": "here"}, Completion("Where?", " here")),
        ({"prompt": "Where? ", "answer": 7}, Completion("Where?", " 7")),
        ({"prompt": "Where?\n", "answer": "here"}, Completion("Where?\n", "here")),
        ({"prompt": "?", "answer": "b", "choices": ["a", "b"]}, Completion("?", " b", (" a", " b"))),
        ({"prompt": "?", "completion": "b", "choices": ["a", "b"]}, Completion("?", "b", ("a", "b"))),
        ({"question": "q", "answer": "a"}, Completion("q", " a")),
        ({"context": "c", "question": "q", "answer": "a"}, Completion("c\nq", " a")),
        ({"messages": [USER, ASSISTANT]}, Chat((USER, ASSISTANT))),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}], "system": "s"},
            Chat(({"role": "system", "content": "s"}, USER, ASSISTANT)),
        ),
    ],
)
def test_each_format_is_recognised(fields: dict[str, Any], record: object) -> None:
    assert parse(fields, "f", 1) == record


def test_alpaca_takes_its_template() -> None:
    short = parse({"instruction": "Add.", "input": "", "output": "3"}, "f", 1)
    long = parse({"instruction": "Add.", "input": "1 {x} 2", "output": "3"}, "f", 1)
    assert isinstance(short, Completion)
    assert isinstance(long, Completion)
    assert short.prompt.endswith("### Instruction:\nAdd.\n\n### Response:\n")
    assert long.prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n1 {x} 2\n\n### Response:\n")
    assert short.completion == long.completion == "3"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"body": "a"}, r"its fields \(body\) fit no known format .*text: text.* Use a mapping"),
        ({"text": None}, "in format text, `text` is a NoneType, not a text"),
        ({"text": ["a"]}, "`text` is a list"),
        ({"messages": "hi"}, "`messages` is not a list of messages"),
        ({"messages": []}, "`messages` is not a list of messages"),
        ({"messages": [{"role": "user"}]}, "needs `role` and `content`"),
        ({"messages": [{"role": "user", "content": None}]}, "not a text"),
        ({"conversations": [{"from": "martian", "value": "x"}]}, "`from` is 'martian'; known are"),
        ({"prompt": "?", "answer": "c", "choices": ["a", "b"]}, "the answer 'c' is not among its choices"),
        ({"prompt": "?", "answer": "c", "choices": "abc"}, "`choices` is not a list"),
    ],
)
def test_a_bad_record_says_where_and_why(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRecord, match=why) as error:
        parse(fields, "data.jsonl", 17)
    assert str(error.value).startswith("data.jsonl, line 17: ")


def test_a_mapping_renames_and_decides_the_format(tmp_path: Path) -> None:
    path = tmp_path / "stories.jsonl"
    path.write_text(json.dumps({"prompt": "Write.", "text": "A story."}))
    assert read(path, mapping={"completion": "text"}) == [Completion("Write.", "A story.")]
    assert read(path, mapping={"text": "prompt"}) == [Text("Write.")]
    with pytest.raises(UnknownName, match="completion"):
        read(path, mapping={"completon": "text"})
    with pytest.raises(BadRecord, match=r"line 1: the mapping asks for body; the fields are prompt, text"):
        read(path, mapping={"text": "body"})


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_an_empty_file_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\n" if name != "a.csv" else "text\n")
    with pytest.raises(BadInput, match="is empty: there is no record"):
        read(tmp_path / name)


def test_a_bad_line_among_good_ones_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(BadRecord, match="line 2"):
        read(tmp_path / "a.jsonl")
