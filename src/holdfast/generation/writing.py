"""Answers to prompts, in batches: greedy, drawn, by beams, or by beams of drawn tokens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from holdfast.base import Base
from holdfast.data.quiet import quiet
from holdfast.evaluation.metrics.answers import Drawn, Stopped, end_tokens, plain_settings, seeded
from holdfast.generation.prompts import Prompt, answer_tokens, check_writes, is_pair, prompt_tokens, virtual
from holdfast.generation.settings import Writing
from holdfast.generation.text import text_of

KEPT = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
"""What of a model's own generation settings is no matter of choice."""


def generate(base: Base, prompts: Sequence[Prompt], settings: Writing | None = None) -> list[str]:
    """What the model answers to each prompt, in their order, without the prompts and up to the first stop.

    An answer depends on the prompt, its place in the list and the seed, but not (beyond rounding) on the prompts that
    it is batched with: each has random numbers of its own, beams of drawn tokens are written one prompt at a time, and
    only prompts of equal length share a batch where filling up would change something (virtual tokens, repetition
    penalty). The model's own generation settings have no say, and no random state outside changes.

    Raises BadInput for prompts that cannot be encoded or leave no room.
    """
    settings = settings or Writing()
    check_writes(base)
    given = [prompt_tokens(base, prompt, settings) for prompt in prompts]
    answers = [""] * len(prompts)
    with quiet(base.model):
        for places in _batches(base, given, settings):
            rows = [given[i] for i in places]
            for i, row, new in zip(places, rows, written(base, rows, settings, places), strict=True):
                answers[i] = text_of(base, row, new, settings.stop)
    return answers


def written(
    base: Base,
    prompts: Sequence[list[int]],
    settings: Writing,
    places: Sequence[int],
    *,
    streamer: BaseStreamer | None = None,
    halt: Sequence[StoppingCriteria] = (),
) -> list[list[int]]:
    """The new tokens after each prompt of one batch, the one that ended it among them, and pads after it.

    `places` are the prompts' numbers, which their random numbers follow from. To be called in `quiet`.
    """
    model: Any = base.model
    ids, mask = _padded(base, prompts)
    begin = 1 if is_pair(model) else ids.shape[1]
    config = _config(base, settings)
    stopping = [*([Stopped(base.tokenizer, begin, settings.stop)] if settings.stop else []), *halt]
    with plain_settings(model, config), _luck(settings, places[0]) if config.do_sample else nullcontext():
        made: Tensor = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList(stopping),
            logits_processor=_draws(settings, places),
            **({} if streamer is None else {"streamer": streamer}),
        )
    new: list[list[int]] = made[:, begin:].tolist()
    return new


@contextmanager
def _luck(settings: Writing, place: int) -> Iterator[None]:
    """For a while, torch's own random numbers are those of one prompt."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seeded(settings.seed, place).initial_seed())
        yield


def _batches(base: Base, given: Sequence[list[int]], settings: Writing) -> Iterator[list[int]]:
    """The prompts' numbers in batches, the longest prompts first."""
    order = sorted(range(len(given)), key=lambda i: (-len(given[i]), i))
    alike = bool(virtual(base.model)) or settings.repetition_penalty != 1
    size = 1 if settings.drawn and settings.beams > 1 else settings.batch_size
    for _, group in itertools.groupby(order, key=lambda i: len(given[i]) if alike else 0):
        numbers = list(group)
        yield from (numbers[i : i + size] for i in range(0, len(numbers), size))


def _padded(base: Base, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64 [rows, longest]: filled up before the text where it goes on behind, else after it."""
    longest = max(map(len, prompts))
    fills = [[0] * (longest - len(prompt)) for prompt in prompts]
    left = not is_pair(base.model)
    rows = list(zip(fills, prompts, strict=True))
    ids = [[base.pad_id] * len(f) + p if left else p + [base.pad_id] * len(f) for f, p in rows]
    mask = [f + [1] * len(p) if left else [1] * len(p) + f for f, p in rows]
    return torch.tensor(ids, device=base.model.device), torch.tensor(mask, device=base.model.device)


def _config(base: Base, settings: Writing) -> GenerationConfig:
    """Everything said, so that nothing comes from the model's own settings but what its architecture needs."""
    own = getattr(base.model, "generation_config", None)
    kept = {name: getattr(own, name, None) for name in KEPT}
    drawn = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=settings.drawn and settings.beams > 1,
        num_beams=settings.beams,
        max_new_tokens=answer_tokens(base, settings),
        repetition_penalty=settings.repetition_penalty,
        eos_token_id=end_tokens(base.tokenizer, own) or None,
        pad_token_id=base.pad_id,
        bos_token_id=base.tokenizer.bos_token_id,
        **{name: value for name, value in kept.items() if value is not None},
        **(drawn if settings.drawn and settings.beams > 1 else {}),
    )


def _draws(settings: Writing, places: Sequence[int]) -> LogitsProcessorList:
    """What draws a token where there are no beams: the likeliest after noise, so that each row has luck of its own."""
    if not settings.drawn or settings.beams > 1:
        return LogitsProcessorList()
    chosen: list[Any] = [TemperatureLogitsWarper(settings.temperature)]
    chosen += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
    chosen += [TopPLogitsWarper(settings.top_p)] if settings.top_p < 1 else []
    return LogitsProcessorList([*chosen, Drawn(1.0, [seeded(settings.seed, place) for place in places])])
