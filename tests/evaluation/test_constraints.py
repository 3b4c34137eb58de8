"""Constraints against cases worked by hand, in English and Chinese."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.evaluation.constraints import constraints, holds, words

LIST = "- tea\n- bread\n* jam"

KEPT: list[tuple[str, dict[str, Any]]] = [
    ("One two three", {"name": "min_words", "n": 3}),
    ("It's a well-known tune.", {"name": "max_words", "n": 4}),
    ("我喜欢喝茶。", {"name": "min_words", "n": 5}),
    ("我喜欢喝茶。", {"name": "max_words", "n": 5}),
    ("我用Python写", {"name": "max_words", "n": 4}),
    ("Dr. Lee paid 3.50 coins. Why?", {"name": "sentences", "least": 2, "most": 2}),
    ('He said "Go." Then he left', {"name": "sentences", "least": 2, "most": 2}),
    ("天亮了。“快走！”他说", {"name": "sentences", "least": 3, "most": 3}),
    ("Wait... no!", {"name": "sentences", "least": 2, "most": 2}),
    ("one\n\ntwo", {"name": "lines", "least": 2, "most": 2}),
    ("one\n \ntwo\nthree", {"name": "paragraphs", "least": 2, "most": 2}),
    (LIST, {"name": "bullets", "least": 3, "most": 3}),
    ("1. go\n2) stop\n3、看", {"name": "numbered", "least": 3, "most": 3}),
    ("The Cat sat.", {"name": "contains", "phrase": "cat"}),
    ("一只cat在睡觉", {"name": "contains", "phrase": "cat"}),
    ("春天来了", {"name": "contains", "phrase": "春天"}),
    ("concatenate", {"name": "excludes", "phrase": "cat"}),
    ("今天下雨", {"name": "excludes", "phrase": "晴"}),
    ("no no, No", {"name": "repeats", "phrase": "no", "times": 3}),
    ("nothing", {"name": "repeats", "phrase": "no", "times": 0}),
    ("A big dog", {"name": "without_letter", "letter": "e"}),
    ("  Dear friend, hello", {"name": "starts_with", "phrase": "dear friend"}),
    ("So it goes. The end.\n", {"name": "ends_with", "phrase": "The end."}),
    ("他走了。完", {"name": "ends_with", "phrase": "完"}),
    ("all small, 3 times", {"name": "lowercase"}),
    ("LOUD!", {"name": "uppercase"}),
    ('"A short answer."', {"name": "quoted"}),
    ("“好。”", {"name": "quoted"}),
    ("red and blue", {"name": "no_commas"}),
    ("红、黄、蓝", {"name": "no_commas"}),
    ('{"colour": "red"}', {"name": "json", "key": "colour"}),
    ("```json\n[1, 2]\n```", {"name": "json"}),
    ("我住在北京。", {"name": "language", "code": "zh"}),
    ("I live in Beijing (北).", {"name": "language", "code": "en"}),
]

BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("One two", {"name": "min_words", "n": 3}),
    ("我喜欢喝茶。", {"name": "max_words", "n": 4}),
    ("One. Two.", {"name": "sentences", "most": 1}),
    ("天亮了。走吧。", {"name": "sentences", "least": 3}),
    ("one two", {"name": "lines", "least": 2}),
    ("one\ntwo", {"name": "paragraphs", "least": 2}),
    ("-5 degrees\n--", {"name": "bullets"}),
    ("In 2020 we met", {"name": "numbered"}),
    ("concatenate", {"name": "contains", "phrase": "cat"}),
    ("今天下雨", {"name": "excludes", "phrase": "雨"}),
    ("no no", {"name": "repeats", "phrase": "no", "times": 3}),
    ("The End", {"name": "without_letter", "letter": "E"}),
    ("Oh dear", {"name": "starts_with", "phrase": "Dear"}),
    ("The end. Or not.", {"name": "ends_with", "phrase": "The end."}),
    ("Tom", {"name": "lowercase"}),
    ("小写", {"name": "lowercase"}),
    ("LOUd", {"name": "uppercase"}),
    ("123", {"name": "uppercase"}),
    ('"One" and "two', {"name": "quoted"}),
    ('""', {"name": "quoted"}),
    ("红，黄", {"name": "no_commas"}),
    ("red, blue", {"name": "no_commas"}),
    ("Here it is: {}", {"name": "json"}),
    ('{"a": 1}', {"name": "json", "key": "b"}),
    ("[1]", {"name": "json", "key": "b"}),
    ("I live in Beijing.", {"name": "language", "code": "zh"}),
    ("我住在北京 Beijing", {"name": "language", "code": "en"}),
    ("2024!", {"name": "language", "code": "en", "least": 0.0}),
]


@pytest.mark.parametrize(("text", "constraint"), KEPT)
def test_kept(text: str, constraint: dict[str, Any]) -> None:
    assert holds(text, constraint)


@pytest.mark.parametrize(("text", "constraint"), BROKEN)
def test_broken(text: str, constraint: dict[str, Any]) -> None:
    assert not holds(text, constraint)


def test_every_constraint_is_tried_both_ways() -> None:
    assert {case["name"] for _, case in KEPT} == {case["name"] for _, case in BROKEN} == set(constraints.names())


@pytest.mark.parametrize("text", ["", " \n\t"])
@pytest.mark.parametrize("constraint", [constraint for _, constraint in KEPT + BROKEN])
def test_an_empty_answer_follows_nothing(text: str, constraint: dict[str, Any]) -> None:
    assert not holds(text, constraint)
    assert not holds(text, {"name": "max_words", "n": 0})


def test_words_of_chinese_are_characters() -> None:
    assert words("我有2只cats，don't you?") == ["我", "有", "2", "只", "cats", "don't", "you"]


@pytest.mark.parametrize(
    ("constraint", "error", "says"),
    [
        ({"name": "max_word", "n": 3}, UnknownName, "'max_words'"),
        ({"name": "max_words", "m": 3}, UnknownName, "called 'm'"),
        ({"name": "max_words", "text": "x", "n": 3}, UnknownName, "called 'text'"),
        ({"name": "language", "code": "de"}, UnknownName, "'de'"),
        ({"name": "max_words"}, BadInput, "needs n"),
        ({"n": 3}, BadInput, "needs a `name`"),
        ({"name": "max_words", "n": "3"}, BadInput, "cannot be '3'"),
        ({"name": "max_words", "n": -1}, BadInput, "cannot be -1"),
        ({"name": "max_words", "n": True}, BadInput, "cannot be True"),
        ({"name": "max_words", "n": None}, BadInput, "cannot be None"),
        ({"name": "contains", "phrase": ""}, BadInput, "cannot be ''"),
        ({"name": "contains", "phrase": ["a"]}, BadInput, "cannot be"),
    ],
)
@pytest.mark.parametrize("text", ["An answer.", ""])
def test_what_cannot_be_checked_is_said(
    constraint: dict[str, Any], error: type[BadInput], says: str, text: str
) -> None:
    with pytest.raises(error, match=says):
        holds(text, constraint)
