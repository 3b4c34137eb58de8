"""Metrics of likelihood: how probable a model finds texts and choices. Nothing is written, so nothing is random."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.data.formats import Chat, Completion, Record
from holdfast.data.rows import IGNORED, Row, Rows, encode, padding
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.metrics.branching import branch_losses, trees
from holdfast.evaluation.metrics.registry import BATCH_TOKENS, metrics, room, with_choices
from holdfast.evaluation.scored import Floats, Scored, of_losses, ratio, shares

BINS, CLASSES = 10, 1000


@metrics.register("loss")
def loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    *,
    length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scored:
    """Nats per learnt token, weighted by tokens like perplexity; exp of it is the perplexity.

    Long texts are scored in windows of `length` tokens, of which an eighth is context from the window before.
    """
    return of_losses(_of_each(model, tokenizer, examples, length, batch_tokens))


@metrics.register("perplexity")
def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    *,
    length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scored:
    """exp of `loss`: the number of tokens among which the model seems to choose."""
    scored = of_losses(_of_each(model, tokenizer, examples, length, batch_tokens))
    return Scored(scored.stats, _exponential, "perplexity", False)


@metrics.register("bits_per_character")
def bits_per_character(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    *,
    length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scored:
    """Bits per character of what is learnt of each example: comparable between models with different tokenizers.

    Of an example that was cut, the characters that were scored count; ends of documents have none.
    """
    encoded = [encode(example, tokenizer, length=length or room(model), ending=False) for example in examples]
    nats = _summed(model, tokenizer, [rows for rows, _ in encoded], batch_tokens).total.double().numpy()
    texts = [
        _kept_text(tokenizer, r[0]) if cut else _learnt_text(x) for (r, cut), x in zip(encoded, examples, strict=True)
    ]
    characters = np.array([len(text) for text in texts], dtype=np.float64)
    stats = np.stack([np.where(characters > 0, nats / math.log(2), 0.0), characters], axis=-1)
    return Scored(stats, ratio, "bits per character", False)


@metrics.register("choice_accuracy")
def choice_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    *,
    normalised: bool = False,
    length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scored:
    """1 where the right choice is the likeliest after the prompt, else 0; of equals the first counts.

    Raw log-likelihood, or with `normalised` per UTF-8 byte of the choice, which takes the advantage of short ones away
    (Gao 2021, "Multiple choice normalization in LM evaluation"). A model whose
    likelihoods are no numbers has chosen nothing. Raises BadInput for an example without choices.
    """
    tasks = [with_choices(example, i, "choice_accuracy") for i, example in enumerate(examples)]
    scored = _choice_scores(model, tokenizer, tasks, normalised, length, batch_tokens)
    chosen = [_likeliest(task, scores) for task, scores in scored]
    right = [float(choice == task.completion) for choice, task in zip(chosen, tasks, strict=True)]
    return shares(right, answers=[choice.strip() for choice in chosen])


@metrics.register("macro_f1")
def macro_f1(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    *,
    normalised: bool = False,
    length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scored:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN), the class being the likeliest choice.

    Classes are the answers that occur; a class that is neither answered nor right counts 0 (as in scikit-learn).
    """
    tasks = [with_choices(example, i, "macro_f1") for i, example in enumerate(examples)]
    scored = choice_accuracy(model, tokenizer, tasks, normalised=normalised, length=length, batch_tokens=batch_tokens)
    known = {choice.strip() for task in tasks for choice in task.choices}
    return f1_of([task.completion.strip() for task in tasks], list(scored.answers), known)


def f1_of(right: Sequence[str], given: Sequence[str], known: Iterable[str] = ()) -> Scored:
    """Macro F1 of classes that were predicted, as statistics [n, 2 classes]: TP and FP + FN of each class.

    `known` are all classes that could have been: two models can be paired only where both are counted in the same.
    """
    classes = sorted({*right, *given, *known})
    if len(classes) > CLASSES:
        raise BadInput(f"F1 is the mean over classes, at most {CLASSES}; these answers are of {len(classes)} kinds.")
    numbers = np.arange(len(classes))
    r, g = (np.array([classes.index(name) for name in side])[:, None] == numbers for side in (right, given))
    return Scored(np.concatenate([r & g, r != g], axis=-1).astype(np.float64), _macro_f1, "share", True, tuple(given))


@metrics.register("calibration_error")
def calibration_error(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    *,
    normalised: bool = False,
    length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scored:
    """Expected calibration error over ten bins of confidence, the softmax over the choices' scores.

    sum over bins of (items in it / n) |accuracy - mean confidence| (Guo et al. 2017, arXiv:1706.04599). It is biased
    upwards where bins hold few items, for base and tuned model alike.
    """
    tasks = [with_choices(example, i, "calibration_error") for i, example in enumerate(examples)]
    stats, answers = np.zeros((len(tasks), 3 * BINS)), []
    for i, (task, scores) in enumerate(_choice_scores(model, tokenizer, tasks, normalised, length, batch_tokens)):
        known = scores if np.isfinite(scores).all() else np.zeros_like(scores)
        probable = np.exp(known - np.logaddexp.reduce(known))
        best = int(np.argmax(probable))
        at = min(int(probable[best] * BINS), BINS - 1)
        stats[i, [at, BINS + at, 2 * BINS + at]] = 1.0, probable[best], float(task.choices[best] == task.completion)
        answers.append(task.choices[best].strip())
    return Scored(stats, _calibration, "share", False, tuple(answers))


def _choice_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Completion],
    normalised: bool,
    length: int | None,
    batch_tokens: int,
) -> Iterator[tuple[Completion, Floats]]:
    """Each task with the log-likelihoods of its choices [choices], per byte where normalised."""
    made = trees(tasks, tokenizer, length or room(model))
    losses = branch_losses(model, made, pad_id=padding(tokenizer), batch_tokens=batch_tokens)
    for task, found in zip(tasks, losses, strict=True):
        sizes = [len(choice.encode()) if normalised else 1 for choice in task.choices]
        yield task, -found / np.array(sizes)


def _of_each(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Record],
    length: int | None,
    batch_tokens: int,
) -> SequenceLosses:
    """Losses summed over the rows of each example."""
    length = length or room(model)
    rows = [encode(example, tokenizer, length=length, overlap=length // 8)[0] for example in examples]
    return _summed(model, tokenizer, rows, batch_tokens)


def _summed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Rows], batch_tokens: int
) -> SequenceLosses:
    flat: list[Row] = [row for group in rows for row in group]
    scored = sequence_losses(model, flat, pad_id=padding(tokenizer), batch_tokens=batch_tokens)
    owners = torch.tensor([i for i, group in enumerate(rows) for _ in group], dtype=torch.int64)
    total = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, owners, scored.total)
    return SequenceLosses(total, torch.zeros(len(rows), dtype=torch.int64).index_add_(0, owners, scored.tokens))


def _likeliest(task: Completion, scores: Floats) -> str:
    return task.choices[int(np.argmax(scores))] if np.isfinite(scores).all() else ""


def _kept_text(tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    return str(tokenizer.decode([token for token in row["labels"] if token != IGNORED]))


def _learnt_text(example: Record) -> str:
    if isinstance(example, Completion):
        return example.completion
    if isinstance(example, Chat):
        turns = example.messages[example.context :]
        return "".join(str(turn["content"]) for turn in turns if turn["role"] == "assistant")
    return example.text


def _exponential(sums: Floats) -> Floats:
    with np.errstate(over="ignore"):
        found: Floats = np.exp(ratio(sums))
    return found


def _macro_f1(sums: Floats) -> Floats:
    hit, missed = np.split(sums, 2, axis=-1)
    seen = hit + missed > 0
    each = np.where(seen, 2 * hit / np.where(seen, 2 * hit + missed, 1.0), 0.0)
    found: Floats = each.sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1)
    return found


def _calibration(sums: Floats) -> Floats:
    count, confidence, right = np.split(sums, 3, axis=-1)
    found: Floats = np.abs(right - confidence).sum(axis=-1) / np.maximum(count.sum(axis=-1), 1)
    return found
