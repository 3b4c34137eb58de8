"""A chat model's conversations with itself follow its template, and only the answers are learnt."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from holdfast import tiny
from holdfast._errors import BadInput, Unsupported
from holdfast.data.conversations import Frame, conversations, cut, framed
from holdfast.data.formats import Chat
from holdfast.data.rows import rows
from tests.models import build

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }} ||{% endfor %}{% if add_generation_prompt %}bot: {% endif %}"
)
BARE = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
FRAME = Frame((1, 5), (2, 7, 8), frozenset({2}))


def tokenizer(template: str | None) -> Any:
    made = AutoTokenizer.from_pretrained(tiny.MODEL)
    made.chat_template = template
    return made


def test_the_frame_is_what_the_template_puts_around() -> None:
    tok = tokenizer(CHAT)
    frame = framed(tok)
    told = [tok.decode(part).replace(" ", "") for part in (frame.opening, frame.between)]
    assert told == ["<s>user:", "</s><s>assistant:"]
    assert frame.ends == {tok.eos_token_id, *tok.convert_tokens_to_ids(["</s>"])}


@pytest.mark.slow
def test_rows_follow_the_frame_and_only_answers_are_learnt() -> None:
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(0)  # every token as likely as any other, so that turns do end
    made = conversations(model, Template(), n=20, length=60, cache=False)
    assert 15 <= len(made) <= 20
    for row in made:
        ids, labels = row["input_ids"], row["labels"]
        at = ids.index(2)
        assert ids[:2] == [1, 5] and tuple(ids[at : at + 3]) == (2, 7, 8) and len(ids) <= 60
        assert labels == [-100] * (at + 3) + ids[at + 3 :]
        assert 2 not in ids[at + 3 : -1]
    assert any(row["input_ids"][-1] == 2 for row in made)
    assert made == conversations(model, Template(), n=20, length=60, cache=False)
    assert made != conversations(model, Template(), n=20, length=60, cache=False, seed=1)


class Template:
    """A tokenizer of numbers: "<n>" is the token n; its template is that of FRAME."""

    chat_template, bos_token_id, eos_token_id, all_special_ids, added_tokens_decoder = "x", 1, 2, [1, 2], {}

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool = False) -> str:
        told = "".join(f"<1><{5 if m['role'] == 'user' else 8}>{m['content']}<2><7>" for m in messages)
        return told + "<8>" * add_generation_prompt

    def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(part) for part in text.replace("<", " ").replace(">", " ").split()]}


def test_a_row_ends_with_its_answer_and_none_is_made_of_a_question_without_end() -> None:
    assert framed(Template()) == FRAME  # type: ignore[arg-type]
    assert cut([1, 5, 40, 41, 2, 7, 8, 50, 51, 2, 60], FRAME) == {
        "input_ids": [1, 5, 40, 41, 2, 7, 8, 50, 51, 2],
        "labels": [-100] * 7 + [50, 51, 2],
    }
    assert cut([1, 5, 40, 2, 7, 8, 50], FRAME) == {
        "input_ids": [1, 5, 40, 2, 7, 8, 50],
        "labels": [-100] * 6 + [50],
    }
    assert cut([1, 5, 40, 41, 42], FRAME) is None
    assert cut([1, 5, 40, 41, 2], FRAME) == {"input_ids": [1, 5, 40, 41, 2], "labels": [-100] * 5}


def test_a_whole_conversation_is_the_row_that_reading_it_gives() -> None:
    tok = tokenizer(CHAT.replace(": ", "\n"))
    talk = Chat(({"role": "user", "content": "Where is the cat?"}, {"role": "assistant", "content": "On the mat."}))
    (row,) = rows([talk], tok, length=200)
    assert cut(row["input_ids"], framed(tok)) == row


def test_samples_are_kept_and_what_lacks_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(0)
    once = conversations(model, Template(), n=4, length=60, cache=tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.rglob("*.safetensors"))
    assert once == conversations(model, Template(), n=4, length=60, cache=tmp_path)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        few = conversations(model, Template(), n=40, length=13, cache=False)  # type: ignore[arg-type]
    assert len(few) < 40 and "can be used" in caplog.text


def test_templates_that_cannot_be_followed_are_refused() -> None:
    model = build("llama")
    for template, said in ((None, "chat template"), (PLAIN, "ordinary text")):
        with pytest.raises((BadInput, Unsupported), match=said):
            conversations(model, tokenizer(template), n=2, length=60)
    assert framed(tokenizer(BARE)).opening == (1,)
    with pytest.raises(BadInput, match="no room"):
        conversations(model, Template(), n=2, length=9)  # type: ignore[arg-type]
