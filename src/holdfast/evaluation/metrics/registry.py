"""The registry of metrics, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from holdfast._errors import BadInput
from holdfast._registry import Registry
from holdfast.data.formats import Completion, Record
from holdfast.evaluation.scored import Scored

Metric = Callable[..., Scored]

metrics: Registry[Metric] = Registry("metric")
"""All metrics by name: (model, tokenizer, examples, **knobs) -> Scored."""

BATCH_TOKENS = 16384
"""Padded tokens of one batch. Base and tuned model have to be scored with the same."""


def room(model: PreTrainedModel) -> int:
    """The longest row that the model reads, at most 2,048 tokens."""
    return min(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048, 2048)


def with_prompt(example: Record, i: int, metric: str) -> Completion:
    """The example, which has to have a prompt; raises BadInput."""
    if not isinstance(example, Completion):
        raise BadInput(f"{metric} needs a prompt; example {i + 1} is a {type(example).__name__}. Use loss.")
    return example


def with_choices(example: Record, i: int, metric: str) -> Completion:
    """The example, which has to have choices; raises BadInput."""
    if not isinstance(example, Completion) or not example.choices:
        raise BadInput(f"{metric} needs choices; example {i + 1} has none. Use exact_match or loss.")
    return example
