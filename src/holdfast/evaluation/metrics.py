"""Metrics: a figure per example, by name; the same for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from holdfast._errors import BadInput
from holdfast._registry import Registry
from holdfast.data.formats import Completion, Record
from holdfast.data.quiet import quiet
from holdfast.data.rows import Row, encode, length_sorted_batches, padding, start, tokens
from holdfast.evaluation.loss import SequenceLosses, sequence_losses

Metric = Callable[..., Tensor]

metrics: Registry[Metric] = Registry("metric")
"""All metrics by name: (model, tokenizer, examples, **knobs) -> float64 [examples]."""


@metrics.register("loss")
def loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    *,
    length: int | None = None,
    batch_tokens: int = 16384,
) -> Tensor:
    """Nats per learnt token of each example; nan where it has none.

    Long texts are scored in windows of `length` tokens, of which an eighth is context from the window before.
    """
    length = length or _room(model)
    rows = [encode(example, tokenizer, length=length, overlap=length // 8)[0] for example in examples]
    scored = _of_each(model, tokenizer, rows, batch_tokens)
    return scored.each()


@metrics.register("choice_accuracy")
def choice_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    *,
    normalised: bool = False,
    length: int | None = None,
    batch_tokens: int = 16384,
) -> Tensor:
    """1 where the right choice is the likeliest after the prompt, else 0; of equals the first counts.

    Raw log-likelihood, or with `normalised` per UTF-8 byte of the choice, which takes the advantage of short ones away
    (Gao 2021, "Multiple choice normalization in LM evaluation"). Raises BadInput for an example without choices.
    """
    tasks = [_with_choices(example, i) for i, example in enumerate(examples)]
    variants = [replace(task, completion=choice) for task in tasks for choice in task.choices]
    rows = [encode(v, tokenizer, length=length or _room(model), ending=False)[0] for v in variants]
    likelihood = -_of_each(model, tokenizer, rows, batch_tokens).total
    if normalised:
        likelihood = likelihood / torch.tensor([len(v.completion.encode()) for v in variants])
    scores = iter(likelihood.tolist())
    right = []
    for task in tasks:
        of_choices = [next(scores) for _ in task.choices]
        right.append(task.choices[of_choices.index(max(of_choices))] == task.completion)
    return torch.tensor(right, dtype=torch.float64)


@metrics.register("exact_match")
def exact_match(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    *,
    max_new_tokens: int = 32,
    stop: Sequence[str] = ("\n",),
    batch_tokens: int = 16384,
) -> Tensor:
    """1 where greedy continuation of the prompt is the completion, but for blanks at its ends; else 0.

    The continuation ends at a token that ends a document, at one of the `stop` strings, or after `max_new_tokens`.
    An answer of several lines needs other stops than the default. Raises BadInput for an example without a prompt.
    """
    tasks = [_with_prompt(example, i) for i, example in enumerate(examples)]
    options = {"max_new_tokens": max_new_tokens, "batch_tokens": batch_tokens}
    written = greedy(model, tokenizer, tasks, stop=stop, **options)
    right = [text.strip() == task.completion.strip() for text, task in zip(written, tasks, strict=True)]
    return torch.tensor(right, dtype=torch.float64)


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Completion],
    *,
    max_new_tokens: int = 32,
    stop: Sequence[str] = ("\n",),
    batch_tokens: int = 16384,
) -> list[str]:
    """What the model writes after each prompt, greedily, up to the first stop; in batches of similar length.

    A prompt that leaves no room for `max_new_tokens` loses its beginning.
    """
    begin = start(tokenizer)
    room = _room(model) - len(begin) - max_new_tokens
    if room < 1:
        raise BadInput(f"max_new_tokens = {max_new_tokens} leaves no room for a prompt in {_room(model)} positions.")
    prompts = [begin + tokens(tokenizer, task.prompt)[-room:] for task in tasks]
    written = [""] * len(tasks)
    with quiet(model), torch.random.fork_rng(devices=[]):
        for chosen in length_sorted_batches([len(p) + max_new_tokens for p in prompts], batch_tokens):
            texts = _continued(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens, stop)
            for i, text in zip(chosen, texts, strict=True):
                written[i] = text
    return written


class _Stopped(StoppingCriteria):
    """Rows whose new text holds a stop string are done."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, begin: int, stop: Sequence[str]):
        self.tokenizer, self.begin, self.stop = tokenizer, begin, stop

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.begin :], skip_special_tokens=True)
        return torch.tensor([any(s in text for s in self.stop) for text in texts], device=input_ids.device)


def _continued(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], most: int, stop: Sequence[str]
) -> list[str]:
    longest, device = max(map(len, prompts)), model.device
    pad = padding(tokenizer)
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = sorted({t for t in (tokenizer.eos_token_id, tokenizer.bos_token_id) if t is not None})
    # All that could bend greedy search is set, because what is left out is taken from the model's own settings.
    plain = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, num_beams=1, max_new_tokens=most, eos_token_id=ends or None, pad_token_id=pad,
        repetition_penalty=1.0, no_repeat_ngram_size=0, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    stopping = StoppingCriteriaList([_Stopped(tokenizer, longest, stop)] if stop else [])
    made: Tensor = model.generate(  # type: ignore[operator]
        ids, attention_mask=mask, generation_config=plain, stopping_criteria=stopping
    )
    return [_until(tokenizer, new, ends, stop) for new in made[:, longest:].tolist()]


def _until(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int], stop: Sequence[str]) -> str:
    end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    text = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def _of_each(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[list[Row]], batch_tokens: int
) -> SequenceLosses:
    """Losses summed over the rows of each example."""
    flat = [row for group in rows for row in group]
    scored = sequence_losses(model, flat, pad_id=padding(tokenizer), batch_tokens=batch_tokens)
    owners = torch.tensor([i for i, group in enumerate(rows) for _ in group], dtype=torch.int64)
    total = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, owners, scored.total)
    return SequenceLosses(total, torch.zeros(len(rows), dtype=torch.int64).index_add_(0, owners, scored.tokens))


def _room(model: PreTrainedModel) -> int:
    """The longest row that the model reads, at most 2,048 tokens."""
    return min(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048, 2048)


def _with_choices(example: Record, i: int) -> Completion:
    if not isinstance(example, Completion) or not example.choices:
        raise BadInput(f"choice_accuracy needs choices; example {i + 1} has none. Use exact_match or loss.")
    return example


def _with_prompt(example: Record, i: int) -> Completion:
    if not isinstance(example, Completion):
        raise BadInput(f"exact_match needs a prompt; example {i + 1} is a {type(example).__name__}. Use loss.")
    return example
