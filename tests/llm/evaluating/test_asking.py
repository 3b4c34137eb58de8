"""Reading questions out of whatever a model writes, and asking whoever is asked."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from holdfast._errors import BadInput
from holdfast.base import load_base
from holdfast.llm import create_llm, create_llm_config
from holdfast.llm.backends.base import LLMResponse
from holdfast.llm.evaluating.asking import asker, questions_in, reply, unlike
from holdfast.llm.evaluating.making import ASKED, made_set

BOTH = ["What is RNA?", "基因是什么?"]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        (json.dumps(BOTH, ensure_ascii=False), True),
        (f"Of course!\n```json\n{json.dumps(BOTH)}\n```\nMore [soon].", True),
        (json.dumps({"questions": [{"question": q, "level": 1} for q in BOTH]}), True),
        ('["What is RNA?", "What is RNA", "基因是什么?",\n ...\n]', True),
        ("['What is RNA?', '基因是什么?']", True),
        ('[\n "What is RNA?",\n "基因是什么?",\n "Why is', True),
        ("<think>Perhaps [\"no\", \"not\", \"never\"]</think>" + json.dumps(BOTH), True),
        ("Here are two questions:\n1. What is RNA?\n2) **基因是什么?**\n", False),
        ("问题1: What is RNA?\n问题2: 基因是什么?", False),
        ("- \"What is RNA?\",\n* 基因是什么?", False),
        ("Sure.\nWhat is RNA?\n\n基因是什么?\nGood luck", False),
        ("```\nWhat is RNA?\n基因是什么?\n```", False),
    ],
)  # fmt: skip
def test_questions_are_found_in_any_form(text: str, listed: bool) -> None:
    assert questions_in(text) == (BOTH, listed)


def test_what_the_guide_strips_off_a_question_stays() -> None:
    """The guide takes digits off both ends of a line."""
    assert questions_in("1. What happened in 1984")[0] == ["What happened in 1984"]
    assert questions_in("3.5 kg of what?")[0] == ["3.5 kg of what?"]


def test_the_prompts_own_list_is_no_question() -> None:
    assert questions_in('[\n"问题1",\n"问题2",\n...\n]')[0] == []
    assert questions_in('["问题1", "问题2"] ["What is RNA?"]')[0] in ([], ["What is RNA?"])
    assert questions_in("")[0] == questions_in("[]")[0] == questions_in("...")[0] == []


def test_the_same_question_counts_once() -> None:
    assert unlike(
        ["What is RNA?"], ["what is  rna", "What is DNA?", "WHAT IS DNA", "DNA是什么\uff1f", "dna 是什么?"]
    ) == [
        "What is DNA?",
        "DNA是什么\uff1f",
    ]


class Writer:
    """Says one thing after the other, and keeps what it was asked."""

    def __init__(self, *said: str):
        self.said, self.asked = list(said), list[str]()

    def __call__(self, prompt: str, new: int, temperature: float, seed: int) -> str:
        self.asked.append(prompt)
        return self.said.pop(0) if self.said else "An answer."


def test_too_few_questions_are_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer('["What is RNA?"]', '["What is RNA?", "What is DNA?", "What is a cell?"]')
    made = made_set(writer, "生物", 2, None)
    assert made["questions"] == ["What is RNA?", "What is DNA?"] and made["ground_truths"] == ["An answer."] * 2
    assert "生成2个" in writer.asked[0] and "生成1个" in writer.asked[1]
    assert "请不要重复以下问题:\nWhat is RNA?" in writer.asked[1] and not caplog.messages


def test_when_no_more_come_it_says_how_many_there_are(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Writer(*["1. What is RNA?"] * ASKED)
    with caplog.at_level(logging.WARNING, "holdfast"):
        made = made_set(writer, "生物", 3, None)
    assert made["questions"] == ["What is RNA?"] and len(writer.asked) == ASKED + 1
    assert "There are 1 questions, not 3" in caplog.text
    out = capsys.readouterr().out
    assert out.count("无法解析JSON格式,将使用备用方法提取问题\n") == ASKED and "成功提取了1个问题\n" in out


def test_nothing_that_can_be_read_is_an_error() -> None:
    with pytest.raises(BadInput, match="another model"):
        made_set(Writer(*[""] * ASKED), "生物", 3, None)


@pytest.mark.parametrize("held", ["no json", "[]", '{"domain_name": "x", "questions": [], "ground_truths": []}'])
def test_a_file_with_anything_else_is_left_alone(held: str, tmp_path: Path) -> None:
    file = tmp_path / "set.json"
    file.write_text(held)
    with pytest.raises(BadInput, match="another file"):
        made_set(Writer(), "生物", 1, file)
    assert file.read_text() == held


class Echo:
    def generate(self, prompt: str) -> LLMResponse:
        return LLMResponse(f"{prompt} And this.")


def test_the_prompt_is_no_part_of_an_answer() -> None:
    assert reply(Echo(), "Say it.", new=5, temperature=0.0) == "And this."


def test_the_model_itself_and_any_backend_answer() -> None:
    base = load_base("tiny")
    ask = asker(base.model, base.tokenizer, None)
    first = ask("Once upon a time", 8, 0.7, 0)
    assert first and first == ask("Once upon a time", 8, 0.7, 0) != ask("Once upon a time", 8, 0.7, 1)
    backends: list[Any] = [create_llm(create_llm_config("tiny")), create_llm(create_llm_config("mock"))]
    for llm in backends:
        said = reply(llm, "Once upon a time", new=8, temperature=0.7, seed=3)
        assert said and said == reply(llm, "Once upon a time", new=8, temperature=0.7, seed=3)
        assert reply(llm, "Once upon a time", new=8, temperature=0.0)
