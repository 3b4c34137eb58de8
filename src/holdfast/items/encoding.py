"""What a model reads before it names an item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.data.pairs import source_tokens
from holdfast.data.rows import start
from holdfast.data.rows import tokens as tokenised
from holdfast.evaluation.loss import writes
from holdfast.evaluation.metrics.registry import room
from holdfast.items.search import virtual


def encoded(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[int], depth: int) -> list[int]:
    """The tokens of a prompt, cut to the room that an ID leaves; BOS stays."""
    if writes(model):
        ids = source_tokens(prompt, tokenizer) if isinstance(prompt, str) else list(prompt)
        return _some(ids[: room(model)])
    begin = start(tokenizer)
    ids = begin + tokenised(tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
    left = room(model) - virtual(model) - depth
    if left <= len(begin):
        raise BadInput(
            f"IDs of {depth} tokens leave no room for a prompt in {room(model)} positions. Spell them shorter."
        )
    kept = begin if ids[: len(begin)] == begin else []
    return _some(ids if len(ids) <= left else kept + ids[len(ids) - left + len(kept) :])


def _some(ids: list[int]) -> list[int]:
    if not ids:
        raise BadInput("A prompt is empty, and nothing stands before it. Write something.")
    return ids
