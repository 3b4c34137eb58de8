"""Chats: only what the assistant wrote is learnt, whichever way the template lets it be found."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from holdfast import tiny
from holdfast._errors import BadInput
from holdfast.data.formats import Chat
from holdfast.data.rows import rows

PLAIN = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<s>assistant: "
    "{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}<s>{{ m.role }}: {{ m.content }}</s>{% endif %}{% endfor %}"
)
FORGETFUL = "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}|{% endfor %}"
TALK = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is the cat?"},
    {"role": "assistant", "content": "On the mat."},
    {"role": "user", "content": "And the dog?"},
    {"role": "assistant", "content": "In the garden."},
)


def tokenizer(template: str | None) -> Any:
    made = AutoTokenizer.from_pretrained(tiny.MODEL)
    made.chat_template = template
    return made


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_only_the_assistant_is_learnt(template: str) -> None:
    tok = tokenizer(template)
    (row,) = rows([Chat(TALK)], tok, length=200)
    whole = tok.apply_chat_template(list(TALK), tokenize=False)
    assert row["input_ids"] == tok(whole, add_special_tokens=False)["input_ids"]
    taught = [token for token in row["labels"] if token != -100]
    spoken = "".join(f"{m['content']}</s>" for m in TALK if m["role"] == "assistant")
    assert tok.decode(taught).replace(" ", "") == spoken.replace(" ", "")
    assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_messages_of_the_context_are_not_learnt(template: str) -> None:
    tok = tokenizer(template)
    (row,) = rows([Chat(TALK, context=4)], tok, length=200)
    taught = tok.decode([token for token in row["labels"] if token != -100])
    assert taught.replace(" ", "") == "Inthegarden.</s>"


def test_without_a_template_the_error_says_what_to_do() -> None:
    with pytest.raises(BadInput, match=r"no chat template.*give the data as prompt and completion"):
        rows([Chat(TALK)], tokenizer(None), length=64)


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    with pytest.raises(BadInput, match=r"otherwise than the whole.*generation"):
        rows([Chat(TALK)], tokenizer(FORGETFUL), length=64)


def test_a_template_may_refuse_messages() -> None:
    with pytest.raises(BadInput, match="The chat template refuses these messages: no system"):
        rows([Chat(TALK)], tokenizer("{{ raise_exception('no system') }}"), length=64)


def test_a_chat_loses_its_end_and_silence_is_dropped() -> None:
    tok = tokenizer(PLAIN)
    (whole,) = rows([Chat(TALK)], tok, length=200)
    (cut,) = rows([Chat(TALK)], tok, length=60)
    assert cut == {key: values[:60] for key, values in whole.items()}
    assert rows([Chat(TALK[:2])], tok, length=200) == []
