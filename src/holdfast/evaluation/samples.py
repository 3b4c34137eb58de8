"""Samples: how base and tuned model go on from the same prompts, for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from holdfast.data.formats import Completion
from holdfast.data.probes import Probe
from holdfast.data.rows import IGNORED
from holdfast.evaluation.metrics.answers import answers

OPENING = 12
"""Tokens of running text that make a prompt."""


def continuations(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    length: int = 80,
    temperature: float = 0.7,
    seed: int = 0,
) -> list[str]:
    """What the model writes after each prompt, at most `length` tokens; at temperature 0 always the likeliest.

    Every prompt is drawn from the same seed, so two models differ only by what they know. No random state outside
    changes.
    """
    tasks = [Completion(prompt, "") for prompt in prompts]
    drawn: dict[str, Any] = {"max_new_tokens": length, "stop": (), "temperature": temperature, "seed": seed}
    return [answers(model, tokenizer, [task], **drawn)[0] for task in tasks]


def opening(probe: Probe, tokenizer: PreTrainedTokenizerBase) -> str:
    """A prompt from a probe's first row: what stands before the answer of a task, else the first words of the text.

    Of labelled rows and pairs, all that is read.
    """
    row = probe.rows[0]
    if "labels" not in row:  # what is learnt of it is no part of its tokens
        return str(tokenizer.decode(row["input_ids"], skip_special_tokens=True))
    learnt = next((i for i, label in enumerate(row["labels"]) if label != IGNORED), 0)
    end = learnt if learnt > OPENING else OPENING
    return str(tokenizer.decode(row["input_ids"][:end], skip_special_tokens=True))
