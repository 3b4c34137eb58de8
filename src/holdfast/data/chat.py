"""Chats as tokens: the tokenizer's own template, and the assistant's turns as what is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput, Unsupported
from holdfast.data.formats import Chat, Message
from holdfast.data.packing import IGNORED


def chat(record: Chat, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The tokens of a chat and their labels, -100 outside the assistant's turns.

    A template with `{% generation %}` marks says itself what the assistant wrote. For others a turn is what the
    rendered text gains by it after the prompt for a generation, found by comparing rendered beginnings.

    Raises BadInput where there is no template, or where it renders a beginning otherwise than the whole.
    """
    template = tokenizer.chat_template
    if not template:
        raise BadInput(
            "These records are chats, and the tokenizer has no chat template. Take a base with one, set "
            "`tokenizer.chat_template`, or give the data as prompt and completion."
        )
    if isinstance(template, str) and "{% generation" in template.replace("{%-", "{%"):
        return _marked(record, tokenizer)
    return _compared(record, tokenizer)


def _marked(record: Chat, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    encoded: Any = tokenizer.apply_chat_template(
        list(record.messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, marks = list(encoded["input_ids"]), encoded["assistant_masks"]
    first = 0
    if record.context:
        context = list(record.messages[: record.context])
        before: Any = tokenizer.apply_chat_template(context, tokenize=True, return_dict=True)
        first = len(before["input_ids"])
    learnt = [bool(mark) and i >= first for i, mark in enumerate(marks)]
    return ids, [token if mark else IGNORED for token, mark in zip(ids, learnt, strict=True)]


def _compared(record: Chat, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    if not tokenizer.is_fast:
        raise Unsupported("Loss on the assistant's turns needs a fast tokenizer or {% generation %} in the template.")
    text = rendered(record.messages, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = _spans(record, tokenizer, text)
    ids: list[int] = encoded["input_ids"]
    inside = [any(end > a and begin < b for a, b in spans) for begin, end in encoded["offset_mapping"]]
    return ids, [token if mark else IGNORED for token, mark in zip(ids, inside, strict=True)]


def _spans(record: Chat, tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    """Where in the rendered text the assistant's turns stand, in characters."""
    spans = []
    for i, message in enumerate(record.messages):
        if message["role"] == "assistant" and i >= record.context:
            before = rendered(record.messages[:i], tokenizer, prompt=True) if i else ""
            after = rendered(record.messages[: i + 1], tokenizer)
            if not (text.startswith(after) and after.startswith(before)):
                raise BadInput(
                    "The chat template renders the beginning of a chat otherwise than the whole, so the assistant's "
                    "turns cannot be found. Put {% generation %} … {% endgeneration %} around them in the template."
                )
            spans.append((len(before), len(after)))
    return spans


def rendered(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, prompt: bool = False) -> str:
    """A chat as the template writes it, with the beginning of an answer where it is a `prompt`; raises BadInput."""
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))
    except Exception as error:  # a template is a program; it raises what its author chose
        raise BadInput(f"The chat template refuses these messages: {error}") from error
