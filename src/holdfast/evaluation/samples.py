"""Samples: how base and tuned model go on from the same prompts, for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from holdfast.data.probes import Probe
from holdfast.data.quiet import quiet
from holdfast.data.rows import IGNORED, padding, start, tokens

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
    ends = sorted({t for t in (tokenizer.eos_token_id, tokenizer.bos_token_id) if t is not None})
    drawn: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    plain = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=length,
        eos_token_id=ends or None,
        pad_token_id=padding(tokenizer),
        **(drawn if temperature else {"do_sample": False}),
    )
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    written = []
    with quiet(model) as device:
        for prompt in prompts:
            ids = [*start(tokenizer), *tokens(tokenizer, prompt)][-max((room or 10**9) - length, 1) :]
            given = torch.tensor([ids], device=device)
            with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
                torch.manual_seed(seed)
                made = model.generate(input_ids=given, attention_mask=torch.ones_like(given), generation_config=plain)
            written.append(str(tokenizer.decode(made[0, len(ids) :].tolist(), skip_special_tokens=True)))
    return written


def opening(probe: Probe, tokenizer: PreTrainedTokenizerBase) -> str:
    """A prompt from a probe's first row: what stands before the answer of a task, else the first words of the text."""
    row = probe.rows[0]
    learnt = next((i for i, label in enumerate(row["labels"]) if label != IGNORED), 0)
    end = learnt if learnt > OPENING else OPENING
    return str(tokenizer.decode(row["input_ids"][:end], skip_special_tokens=True))
