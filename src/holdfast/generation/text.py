"""Tokens that a model wrote, as text: what comes after the prompt, blanks included, up to where it ends."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.base import Base
from holdfast.evaluation.metrics.answers import end_tokens
from holdfast.generation.prompts import is_pair

CONTEXT = 8
"""Tokens of the prompt that are decoded with the answer: some tokenizers drop a blank at the beginning of a text."""


def text_of(base: Base, prompt: Sequence[int], new: Sequence[int], stop: Sequence[str] = ()) -> str:
    """The text of the new tokens after a prompt, up to the first that ends it and to the first stop."""
    return before_stop(decoded(base, prompt, new), stop)


def decoded(base: Base, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The text of the new tokens up to the first that ends it, as it goes on from the prompt."""
    before = [] if is_pair(base.model) else list(prompt[-CONTEXT:])
    after = list(new[: ended(base, new)])
    head, whole = (str(base.tokenizer.decode(ids, skip_special_tokens=True)) for ids in (before, before + after))
    return whole[len(head) :] if whole.startswith(head) else str(base.tokenizer.decode(after, skip_special_tokens=True))


def ended(base: Base, new: Sequence[int]) -> int:
    """The place of the first token that ends an answer; the number of tokens where none does."""
    ends = end_tokens(base.tokenizer, getattr(base.model, "generation_config", None))
    return next((i for i, token in enumerate(new) if token in ends), len(new))


def before_stop(text: str, stop: Sequence[str]) -> str:
    """What stands before the first stop."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def settled(text: str, stop: Sequence[str]) -> str:
    """What of a growing text will stand, whatever comes: no half character, and nothing that may become a stop."""
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    held = max((n for s in stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
    return text[: len(text) - held]
