"""A talk with a model: what was said so far, cut to what the model can read."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from peft import PeftModel

from holdfast.base import Base
from holdfast.data.formats import Message
from holdfast.generation.prompts import Prompt, encoded, left_for_prompt
from holdfast.generation.settings import Writing
from holdfast.generation.streaming import stream
from holdfast.recipe.comparing import opened
from holdfast.recipe.origin import origin

ZERO_AT_FIRST = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initialisations of LoRA that leave the base's weights alone, so that without the adapter it is the base."""


@dataclass
class Talk:
    """A talk with one model. `name` is what the model is called, `entered` is held while it writes.

    With a chat template the model sees the messages as its template writes them; without one it goes on from the plain
    text of all that was said.
    """

    name: str
    base: Base
    entered: Callable[[], AbstractContextManager[Any]] = nullcontext
    messages: list[Message] = field(default_factory=list)
    system: str | None = None
    forgotten: int = 0

    @property
    def plain(self) -> bool:
        """Whether the model goes on from plain text, for want of a chat template."""
        return not self.base.tokenizer.chat_template

    def answer(self, text: str, settings: Writing) -> Generator[str]:
        """The answer to the next message, in pieces; when it ends, or is broken off, what was said is remembered.

        `forgotten` is then the number of earlier messages that the model had no room for. A message that the model
        cannot take raises what `stream` raises, and is not remembered.
        """
        asked: Message = {"role": "user", "content": text}
        prompt, forgotten = self._prompt([*self.messages, asked], settings)
        answer: Message = {"role": "assistant", "content": ""}
        try:
            with self.entered():
                for piece in stream(self.base, prompt, settings):
                    answer["content"] += piece
                    yield piece
        except (GeneratorExit, KeyboardInterrupt):
            self._remember(asked, answer, forgotten)
            raise
        self._remember(asked, answer, forgotten)

    def reset(self) -> None:
        """Forget what was said; what the system is told stays."""
        self.messages, self.forgotten = [], 0

    def whole(self) -> list[Message]:
        """All that was said, with what the system is told before it."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]

    def _remember(self, asked: Message, answer: Message, forgotten: int) -> None:
        self.messages += [asked, answer]
        self.forgotten = forgotten

    def _prompt(self, messages: list[Message], settings: Writing) -> tuple[Prompt, int]:
        """What the model reads, and how many of the oldest messages it does not; an answer goes with its question."""
        left = left_for_prompt(self.base, settings)
        dropped = 0
        while True:
            prompt = self._written(messages[dropped:])
            fits = left is None or len(encoded(self.base, prompt, settings)[0]) <= left
            if fits or len(messages) - dropped <= 1:
                return prompt, dropped
            dropped += 2

    def _written(self, messages: list[Message]) -> Prompt:
        before: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        if not self.plain:
            return [*before, *messages]
        lines = [str(message["content"]) for message in [*before, *messages]]
        ends = ["" if message["role"] == "user" else "\n" for message in [*before, *messages]]
        return "".join(line + end for line, end in zip(lines, ends, strict=True))


def talks(name: str, *, beside: bool = True) -> list[Talk]:
    """A talk with a model and, where it is `beside` and known, one with the base that the model was made of.

    The base of an adapter is the model with the adapter off; where its initialisation changed the base's weights, and
    for whole weights from a run, the base is loaded on its own.
    """
    base = opened(name)
    model: Any = base.model
    made = [Talk(name, base)]
    if not beside:
        return made
    if isinstance(model, PeftModel) and _leaves_base(model):
        return [*made, Talk("base", base, model.disable_adapter)]
    known = _base_of(name, model)
    return made if known is None else [*made, Talk(f"base ({known})", opened(known))]


def _leaves_base(model: PeftModel) -> bool:
    return all(getattr(config, "init_lora_weights", None) in ZERO_AT_FIRST for config in model.peft_config.values())


def _base_of(name: str, model: Any) -> str | None:
    if isinstance(model, PeftModel):
        return str(model.active_peft_config.base_model_name_or_path)
    return origin(name).base
