"""What a model is given to go on from: prompts as tokens, cut to its room, and prompts from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel

from holdfast._errors import BadInput, BadRecord
from holdfast.base import Base
from holdfast.data.chat import rendered
from holdfast.data.files import kind, records
from holdfast.data.formats import Completion, Message, parse
from holdfast.data.rows import start, tokens
from holdfast.generation.settings import LONGEST, Writing
from holdfast.params.heads import classifies

Prompt = str | Sequence[Message]
"""A text, or the messages of a chat that the model is to answer."""

FIELDS = ("messages", "prompt", "instruction", "text")
"""Where a record's prompt is looked for."""


def prompt_tokens(base: Base, prompt: Prompt, settings: Writing) -> list[int]:
    """The tokens of a prompt; one that leaves no room for an answer loses its beginning, BOS excepted.

    A text is taken for a question where the tokenizer has a chat template, unless `settings.raw`. Raises BadInput for
    an empty prompt, for messages without a template, and for an answer that needs the model's whole room.
    """
    ids, begin = encoded(base, prompt, settings)
    left = left_for_prompt(base, settings)
    if left is None or len(ids) <= left:
        return ids
    return [*begin, *ids[len(ids) - left + len(begin) :]]


def encoded(base: Base, prompt: Prompt, settings: Writing) -> tuple[list[int], list[int]]:
    """The tokens of a whole prompt, and those of them that it has to begin with."""
    tokenizer = base.tokenizer
    if isinstance(prompt, str) and (settings.raw or not tokenizer.chat_template):
        begin = [] if is_pair(base.model) else start(tokenizer)
        ids: list[int] = tokenizer(prompt)["input_ids"] if is_pair(base.model) else begin + tokens(tokenizer, prompt)
        if not ids:
            raise BadInput("The prompt is empty, and this model has no token that a text begins with. Write something.")
        return ids, begin
    if not tokenizer.chat_template:
        raise BadInput("These prompts are chats, and the tokenizer has no chat template. Give them as text.")
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return tokens(tokenizer, rendered(turns, tokenizer, prompt=True)), []


def left_for_prompt(base: Base, settings: Writing) -> int | None:
    """Positions that an answer leaves for its prompt (an encoder has its own); None where the model has no limit.

    Raises BadInput where nothing is left.
    """
    room = positions(base.model)
    if room is None:
        return None
    if (left := room - answer_tokens(base, settings)) < 2:
        raise BadInput(f"max_new_tokens = {settings.max_new_tokens} leaves no room for a prompt in {room} positions.")
    return room if is_pair(base.model) else left


def answer_tokens(base: Base, settings: Writing) -> int:
    """Tokens of an answer, at most."""
    room = positions(base.model)
    return settings.max_new_tokens or min(LONGEST, room // 2 if room else LONGEST)


def positions(model: Any) -> int | None:
    """Positions that a model has for text: those of its config without an adapter's virtual tokens; None: no limit."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if room is None else int(room) - virtual(model)


def virtual(model: Any) -> int:
    """Virtual tokens that an adapter puts before every text (prompt tuning, prefix tuning, p-tuning)."""
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return 0
    return int(model.active_peft_config.num_virtual_tokens)


def check_writes(base: Base) -> None:
    """Raise BadInput for a model that tells labels and writes nothing."""
    if classifies(base.model):
        raise BadInput("This model tells labels and writes no text: ask it by `holdfast evaluate MODEL --text FILE`.")


def is_pair(model: Any) -> bool:
    """Whether an encoder reads the prompt and a decoder writes the answer."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _prompt(fields: Mapping[str, Any], file: str, line: int) -> Prompt:
    """What a record asks, put as it is in training; an answer need not stand there."""
    if fields.get("instruction"):
        alpaca = parse({**fields, "output": fields.get("output") or ""}, file, line)
        assert isinstance(alpaca, Completion)
        return alpaca.prompt
    prompt = next((fields[name] for name in FIELDS if fields.get(name)), None)
    if not isinstance(prompt, str | list):
        raise BadRecord(file, line, f"there is no prompt: write one of {', '.join(FIELDS)}.")
    return prompt


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file: each line of a .txt or .md, else the `prompt` (or messages, instruction, text) of records.

    Raises BadInput for an unreadable or empty file, BadRecord for a record without prompt.
    """
    found: list[Prompt] = []
    for file, line, fields in records(path):
        if kind(path) in (".txt", ".md"):
            found += [text for text in fields["text"].splitlines() if text.strip()]
            continue
        found.append(_prompt(fields, file, line))
    if not found:
        raise BadInput(f"{path} holds no prompt.")
    return found
