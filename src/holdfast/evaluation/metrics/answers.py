"""What a model answers to prompts, in text and in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from holdfast._errors import BadInput
from holdfast.data.formats import Completion
from holdfast.data.pairs import source_tokens
from holdfast.data.quiet import quiet
from holdfast.data.rows import length_sorted_batches, padding, start, tokens
from holdfast.evaluation.loss import writes
from holdfast.evaluation.metrics.registry import BATCH_TOKENS, room


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Completion],
    *,
    max_new_tokens: int = 32,
    stop: Sequence[str] = ("\n",),
    batch_tokens: int = BATCH_TOKENS,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """What the model writes after each prompt, up to the first stop; greedily, or drawn at a `temperature` above 0.

    In batches of similar length. A prompt that leaves no room for `max_new_tokens` loses its beginning. No random
    state changes.
    """
    ends = end_tokens(tokenizer, getattr(model, "generation_config", None))
    written = written_tokens(
        model,
        tokenizer,
        tasks,
        max_new_tokens=max_new_tokens,
        stop=stop,
        batch_tokens=batch_tokens,
        temperature=temperature,
        seed=seed,
    )
    return [until(tokenizer, ids, ends, stop) for _, ids in written]


def written_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Completion],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_tokens: int = BATCH_TOKENS,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[tuple[list[int], list[int]]]:
    """The tokens that the model read and those that it wrote after them, with the one that ended it.

    What is drawn follows from the seed and the prompt's place alone, not from the batch that it is in. Text made of
    the tokens may lack the blank before its first word, and is then not what was written after the prompt.
    """
    prompts = _prompts(model, tokenizer, tasks, max_new_tokens)
    written: list[list[int]] = [[] for _ in tasks]
    with quiet(model), torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        for chosen in length_sorted_batches([len(p) + max_new_tokens for p in prompts], batch_tokens):
            draw = Drawn(temperature, [seeded(seed, i) for i in chosen]) if temperature else None
            made = _continued(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens, stop, draw)
            for i, ids in zip(chosen, made, strict=True):
                written[i] = ids
    return list(zip(prompts, written, strict=True))


def _prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Completion], most: int
) -> list[list[int]]:
    """What the model reads of each task; an encoder reads the prompt alone, so that has all the room there is."""
    if writes(model):
        return [source_tokens(task.prompt, tokenizer)[: room(model)] for task in tasks]
    begin = start(tokenizer)
    left = room(model) - len(begin) - most
    if left < 1:
        raise BadInput(f"max_new_tokens = {most} leaves no room for a prompt in {room(model)} positions.")
    return [begin + tokens(tokenizer, task.prompt)[-left:] for task in tasks]


class Stopped(StoppingCriteria):
    """Rows whose new text holds a stop string are done; only their last tokens can have brought one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, begin: int, stop: Sequence[str]):
        self.tokenizer, self.begin, self.stop = tokenizer, begin, stop
        self.reach = 4 + max(len(text.encode()) for text in stop)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        last = input_ids[:, max(self.begin, input_ids.shape[1] - self.reach) :]
        texts = self.tokenizer.batch_decode(last, skip_special_tokens=True)
        return torch.tensor([any(s in text for s in self.stop) for text in texts], device=input_ids.device)


def seeded(seed: int, place: int) -> torch.Generator:
    """The random numbers of one prompt."""
    return torch.Generator().manual_seed(1_000_003 * seed + place)


class Drawn(LogitsProcessor):
    """Draws from the softmax at a temperature by taking the likeliest token after Gumbel noise, row by row."""

    def __init__(self, temperature: float, generators: Sequence[torch.Generator]):
        self.temperature, self.generators = temperature, generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drawn = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=g) for g in self.generators])
        return scores.float() / self.temperature - drawn.log().to(scores.device)


def _continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    most: int,
    stop: Sequence[str],
    draw: Drawn | None,
) -> list[list[int]]:
    longest, pad = max(map(len, prompts)), padding(tokenizer)
    first = 1 if writes(model) else longest  # where what is new begins: a decoder behind an encoder has its own start
    ids, mask = (torch.tensor(rows, device=model.device) for rows in _padded(prompts, pad, left=not writes(model)))
    own = getattr(model, "generation_config", None)
    ends = end_tokens(tokenizer, own)
    plain = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=most, eos_token_id=ends or None, pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=getattr(own, "decoder_start_token_id", None),
    )  # fmt: skip
    stopping = StoppingCriteriaList([Stopped(tokenizer, first, stop)] if stop else [])
    with plain_settings(model, plain):
        made: Tensor = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            generation_config=plain,
            stopping_criteria=stopping,
            logits_processor=LogitsProcessorList([draw] if draw else []),
        )
    new: list[list[int]] = made[:, first:].tolist()
    return [
        written[: next((i for i, token in enumerate(written) if token in ends), len(written)) + 1] for written in new
    ]


def _padded(prompts: list[list[int]], pad: int, left: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens and mask of prompts in one batch; a decoder goes on from the end, so that it is padded on the left."""
    longest = max(map(len, prompts))
    gaps = [longest - len(prompt) for prompt in prompts]
    if left:
        ids = [[pad] * gap + prompt for gap, prompt in zip(gaps, prompts, strict=True)]
        return ids, [[0] * gap + [1] * (longest - gap) for gap in gaps]
    ids = [prompt + [pad] * gap for gap, prompt in zip(gaps, prompts, strict=True)]
    return ids, [[1] * (longest - gap) + [0] * gap for gap in gaps]


def end_tokens(tokenizer: PreTrainedTokenizerBase, own: GenerationConfig | None) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model's settings name, such as ends of turns."""
    named = getattr(own, "eos_token_id", None)
    more = named if isinstance(named, list) else [named]
    return sorted({t for t in (tokenizer.eos_token_id, tokenizer.bos_token_id, *more) if t is not None})


@contextmanager
def plain_settings(model: Any, plain: GenerationConfig) -> Iterator[None]:
    """Plain settings for a while: what a call leaves open is otherwise taken from the model's own."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = getattr(inner, "generation_config", None)
    inner.generation_config = plain
    try:
        yield
    finally:
        inner.generation_config = own


def until(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int], stop: Sequence[str]) -> str:
    """The text of the tokens up to the first that ends it, and of that what stands before the first stop."""
    end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    text = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]
