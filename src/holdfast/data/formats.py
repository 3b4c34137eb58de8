"""Formats of records, recognised by their keys: text, prompt and completion, tasks, messages, alpaca, sharegpt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast._errors import BadInput, BadRecord, UnknownName
from holdfast.data.sources import Source, raw

Fields = Mapping[str, Any]
Message = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """Running text, all of it learnt."""

    text: str


@dataclass(frozen=True)
class Completion:
    """A prompt and what follows it, joined as they stand; only the completion is learnt.

    `choices` are the possible completions where they form a closed set; `completion` is one of them. `references` are
    all that count as right where there are several, `constraints` what can be checked of a free answer.
    """

    prompt: str
    completion: str
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    constraints: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Chat:
    """Messages with `role` and `content`; the assistant's turns are learnt, save for the first `context` messages."""

    messages: tuple[Message, ...]
    context: int = 0


Record = Text | Completion | Chat


@dataclass(frozen=True)
class Format:
    """A record that has all `keys` is read by `parse`, which raises ValueError with the reason."""

    name: str
    keys: tuple[str, ...]
    parse: Callable[[Fields], Record]


FORMATS: list[Format] = []
"""All formats; the first whose keys a record has is taken."""


def read(source: Source, *, split: str = "train", mapping: Mapping[str, str] | None = None) -> list[Record]:
    """The records of `source`.

    `source` is an embedded text (`tiny/shakespeare`), a file (json, jsonl, csv, tsv, parquet, txt, md, each also .gz),
    a folder of such files, a folder written by `datasets` or cloned from the Hub, a `datasets` id (`owner/name` or
    `owner/name:configuration`), or any iterable of mappings. In a folder, `split` picks the files that bear its
    name (`snips.test.jsonl`); where no file bears the name of a split, all are read. A single file is read whole.
    `mapping` says which field of the data stands for which of ours: `{"completion": "text"}`.

    Raises BadInput for a source that is missing, unreadable or empty, BadRecord for a bad record.
    """
    known = sorted({key for form in FORMATS for key in form.keys} | OPTIONAL)
    for name in mapping or {}:
        if name not in known:
            raise UnknownName("field that a mapping can fill called", name, known)
    found = [parse(fields, file, line, mapping) for file, line, fields in raw(source, split)]
    if not found:
        raise BadInput(f"{source} is empty: there is no record to read in it.")
    return found


def parse(fields: Fields, file: str, line: int, mapping: Mapping[str, str] | None = None) -> Record:
    """One record in the first format whose keys it has; raises BadRecord with the place and the reason."""
    mapping = mapping or {}
    missing = [theirs for theirs in mapping.values() if theirs not in fields]
    if missing:
        raise BadRecord(file, line, f"the mapping asks for {', '.join(missing)}; the fields are {', '.join(fields)}.")
    fields = {**fields, **{ours: fields[theirs] for ours, theirs in mapping.items()}}
    for form in FORMATS:
        if set(form.keys) <= fields.keys() and (not mapping or mapping.keys() & {*form.keys, *OPTIONAL}):
            try:
                return form.parse(fields)
            except ValueError as error:
                raise BadRecord(file, line, f"in format {form.name}, {error}") from error
    known = "; ".join(f"{form.name}: {', '.join(form.keys)}" for form in FORMATS)
    raise BadRecord(file, line, f"its fields ({', '.join(fields)}) fit no known format ({known}). Use a mapping.")


def _format(name: str, *keys: str) -> Callable[[Callable[[Fields], Record]], Callable[[Fields], Record]]:
    def enter(parse: Callable[[Fields], Record]) -> Callable[[Fields], Record]:
        FORMATS.append(Format(name, keys, parse))
        return parse

    return enter


OPTIONAL = {"answers", "choices", "context", "input", "system"}
"""Fields that a format takes where they are there."""


@_format("messages", "messages")
def _messages(fields: Fields) -> Record:
    return Chat(_turns(fields["messages"], "messages", "role", "content"))


@_format("sharegpt", "conversations")
def _sharegpt(fields: Fields) -> Record:
    turns = _turns(fields["conversations"], "conversations", "from", "value", ROLES)
    system = _string(fields, "system", "")
    return Chat(({"role": "system", "content": system}, *turns) if system else turns)


@_format("alpaca", "instruction", "output")
def _alpaca(fields: Fields) -> Record:
    """The template of Taori et al. (2023), Stanford Alpaca."""
    instruction, given = _string(fields, "instruction"), _string(fields, "input", "")
    prompt = (ALPACA_INPUT if given else ALPACA).format(instruction=instruction, input=given)
    return Completion(prompt, _string(fields, "output"))


@_format("completion", "prompt", "completion")
def _completion(fields: Fields) -> Record:
    """TRL's type: two strings, joined as they stand, or two lists of messages."""
    if isinstance(fields["prompt"], list):
        before = _turns(fields["prompt"], "prompt", "role", "content")
        return Chat(before + _turns(fields["completion"], "completion", "role", "content"), context=len(before))
    prompt, completion = _string(fields, "prompt"), _string(fields, "completion")
    return Completion(prompt, completion, _choices(fields, completion, lambda choice: choice))


@_format("task", "prompt", "answer")
def _task(fields: Fields) -> Record:
    return _answered(fields, _string(fields, "prompt"))


@_format("question", "question", "answer")
def _question(fields: Fields) -> Record:
    context = _string(fields, "context", "")
    return _answered(fields, f"{context}\n{_string(fields, 'question')}" if context else _string(fields, "question"))


@_format("text", "text")
def _text(fields: Fields) -> Record:
    return Text(_string(fields, "text"))


@_format("instruction", "prompt", "constraints")
def _instruction(fields: Fields) -> Record:
    """A prompt whose answer is free but for what can be checked of it."""
    given = fields["constraints"]
    if not isinstance(given, list) or not given or not all(isinstance(c, Mapping) and "name" in c for c in given):
        raise ValueError("`constraints` is not a list of mappings with a `name`.")
    return Completion(_string(fields, "prompt"), "", constraints=tuple(given))


@_format("prompt", "prompt")
def _prompt(fields: Fields) -> Record:
    """A prompt alone: there is nothing to learn from it, but answers to it can be compared."""
    return Completion(_string(fields, "prompt"), "")


def _answered(fields: Fields, prompt: str) -> Completion:
    """A task: one blank between prompt and answer, which belongs to the answer (most vocabularies have such tokens)."""
    prompt = prompt.rstrip(" ")
    gap = "" if prompt.endswith("\n") or not prompt else " "
    answer = gap + _string(fields, "answer")
    references = tuple(gap + text for text in _strings(fields, "answers"))
    return Completion(prompt, answer, _choices(fields, answer, lambda choice: gap + choice), references)


def _choices(fields: Fields, right: str, place: Callable[[str], str]) -> tuple[str, ...]:
    given = fields.get("choices")
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(choice, str) for choice in given):
        raise ValueError("`choices` is not a list of texts.")
    choices = tuple(place(choice) for choice in given)
    if right not in choices:
        raise ValueError(f"the answer {right.strip()!r} is not among its choices {given}.")
    return choices


def _strings(fields: Fields, key: str) -> list[str]:
    given = fields.get(key)
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"`{key}` is not a list of texts.")
    return given


def _string(fields: Fields, key: str, default: str | None = None) -> str:
    value = fields.get(key, default)
    if value is None and default is not None:
        return default
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"`{key}` is a {type(value).__name__}, not a text.")
    return value


def _turns(
    value: object, key: str, role: str, content: str, roles: Mapping[str, str] | None = None
) -> tuple[Message, ...]:
    if not isinstance(value, Iterable) or isinstance(value, str) or not value:
        raise ValueError(f"`{key}` is not a list of messages.")
    return tuple(_turn(turn, key, role, content, roles) for turn in value)


def _turn(turn: object, key: str, role: str, content: str, roles: Mapping[str, str] | None) -> Message:
    if not isinstance(turn, Mapping) or role not in turn or content not in turn:
        raise ValueError(f"each of `{key}` needs `{role}` and `{content}`.")
    if not isinstance(turn[content], str):
        raise ValueError(f"`{content}` of one of `{key}` is a {type(turn[content]).__name__}, not a text.")
    name = str(turn[role])
    if roles is not None and name not in roles:
        raise ValueError(f"`{role}` is {name!r}; known are {', '.join(roles)}.")
    rest = {k: v for k, v in turn.items() if k not in (role, content)}
    return {**rest, "role": roles[name] if roles else name, "content": turn[content]}


ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
"""What the speakers of sharegpt records are called in chat templates."""

_INTRODUCTION = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."
)
ALPACA = _INTRODUCTION.format("") + "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
ALPACA_INPUT = (
    _INTRODUCTION.format(", paired with an input that provides further context")
    + "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
