"""Drift of behaviour: how far a model's answers to open prompts went from the base's, in style and in probability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import entr
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from holdfast.base import Base
from holdfast.data.formats import Completion
from holdfast.data.rows import IGNORED, Row, padding, tokens
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.metrics.answers import answers, written_tokens
from holdfast.evaluation.metrics.words import words
from holdfast.evaluation.scored import Floats, Reduce
from holdfast.evaluation.statistics import Interval, draws, paired, resampled

LONGEST = 48
"""Tokens of an answer whose style is compared."""

MOST, RESAMPLES = 2000, 200
"""Different words or pairs that are told apart; the rarer ones count as one."""

FEATURES: Mapping[str, Callable[[str], Iterable[Hashable]]] = {
    "length": lambda text: [len(words(text)).bit_length()],
    "vocabulary": words,
    "word pairs": lambda text: list(zip(words(text), words(text)[1:], strict=False)),
    "marks": lambda text: [mark for mark in text if not (mark.isalnum() or mark == " ")],
}
"""What is counted in an answer: its length in powers of two, its words, pairs of them, punctuation and line ends."""


@dataclass(frozen=True)
class Drift:
    """A divergence between the answers of two models, and the same between two draws of the base: its noise.

    Only what exceeds the noise is drift: answers are drawn, and few answers always differ.
    """

    divergence: Interval
    noise: float


@dataclass(frozen=True)
class Behaviour:
    """What a base wrote to open prompts: once to compare with, once again to know the noise; and how likely it was."""

    prompts: tuple[Completion, ...]
    answers: tuple[str, ...]
    again: tuple[str, ...]
    rows: tuple[Row, ...]
    losses: SequenceLosses
    vectors: Tensor
    tokenizer: PreTrainedTokenizerBase


def behaviour(base: Base, prompts: Sequence[Completion], *, longest: int = LONGEST, seed: int = 0) -> Behaviour:
    """Let the base answer the prompts, drawn at temperature 1, and keep what the comparison needs of it."""
    model, tokenizer = base.model, base.tokenizer
    written = written_tokens(model, tokenizer, prompts, max_new_tokens=longest, temperature=1.0, seed=seed)
    rows: list[Row] = [{"input_ids": read + ids, "labels": [IGNORED] * len(read) + ids} for read, ids in written]
    first = [str(tokenizer.decode(ids, skip_special_tokens=True)) for _, ids in written]
    again = answers(model, tokenizer, prompts, max_new_tokens=longest, stop=(), temperature=1.0, seed=seed + 1)
    losses = sequence_losses(base.model, rows, pad_id=padding(base.tokenizer))
    table: Any = base.model.get_input_embeddings()
    vectors = table.weight.detach().float().cpu().clone()
    return Behaviour(tuple(prompts), tuple(first), tuple(again), tuple(rows), losses, vectors, base.tokenizer)


def output_drift(known: Behaviour, tuned: Base) -> Interval:
    """KL(base || tuned) in nats per token, estimated on what the base wrote: the paired rise of the loss on it.

    E over x ~ base of log p_base(x) - log p_tuned(x); no second model has to be held. It bounds what any measure of the
    answers to these prompts can show, and rises before accuracies fall; it does not say whether answers got worse.
    """
    return paired(known.losses, sequence_losses(tuned.model, list(known.rows), pad_id=padding(tuned.tokenizer)))


def style_drift(known: Behaviour, tuned: Base, *, longest: int = LONGEST, seed: int = 0) -> dict[str, Drift]:
    """How far the style of answers went: Jensen-Shannon divergences of counts, in bits, and a distance of meaning.

    "embedding" is 1 - cosine of mean word vectors (the base's input embeddings). What is different is found, not
    whether it is worse; facts and their denial look alike to all of these.
    """
    asked = list(known.prompts)
    given = answers(
        tuned.model, tuned.tokenizer, asked, max_new_tokens=longest, stop=(), temperature=1.0, seed=seed + 2
    )
    return {
        name: Drift(_divergence(known.answers, given, feature), _divergence(known.answers, known.again, feature).mean)
        for name, feature in FEATURES.items()
    } | {"embedding": Drift(_distance(known, given), _distance(known, known.again).mean)}


def jensen_shannon(sums: Floats) -> Floats:
    """Divergence in [0, 1] bit between two sets of counts side by side, [..., 2k] to [...] (Lin 1991)."""
    first, second = (_shares(part) for part in np.split(sums, 2, axis=-1))
    entropy = entr((first + second) / 2) - (entr(first) + entr(second)) / 2
    found: Floats = entropy.sum(axis=-1) / np.log(2)
    return found


def _shares(counts: Floats) -> Floats:
    shares: Floats = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1e-300)
    return shares


def _divergence(before: Sequence[str], after: Sequence[str], feature: Callable[[str], Iterable[Hashable]]) -> Interval:
    """Over prompts resampled together with both their answers."""
    counted = [[Counter(feature(text)) for text in side] for side in (before, after)]
    common = sum((counts for side in counted for counts in side), Counter()).most_common(MOST)
    places = {name: i for i, (name, _) in enumerate(common)}
    stats = np.zeros((2, len(before), len(places) + 1))
    for side, found in enumerate(counted):
        for i, counts in enumerate(found):
            for name, count in counts.items():
                stats[side, i, places.get(name, len(places))] += count
    return _basic(np.concatenate(list(stats), axis=-1), jensen_shannon)


def _distance(known: Behaviour, after: Sequence[str]) -> Interval:
    stats = np.concatenate([_meant(known, side) for side in (known.answers, after)], axis=-1)
    return _basic(stats, _apart)


def _basic(stats: Floats, reduce: Reduce) -> Interval:
    """The basic bootstrap interval, 2 figure - quantile, at least 0: resampled distances are all too large."""
    found = resampled(stats, reduce, resamples=RESAMPLES)
    figures = np.concatenate([reduce(sums) for sums in draws(stats, RESAMPLES, 0)])
    high, low, upper = (max(2 * found.mean - float(q), 0.0) for q in np.quantile(figures, [0.025, 0.975, 0.05]))
    return replace(found, low=low, high=high, upper=upper)


def _meant(known: Behaviour, texts: Sequence[str]) -> Floats:
    """The mean vector of each answer, float64 [texts, width]."""
    ids = [torch.tensor(tokens(known.tokenizer, text), dtype=torch.int64) for text in texts]
    means = [known.vectors[i].mean(dim=0) if len(i) else torch.zeros(known.vectors.shape[1]) for i in ids]
    return torch.stack(means).double().numpy()


def _apart(sums: Floats) -> Floats:
    first, second = np.split(sums, 2, axis=-1)
    size = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    found: Floats = 1 - (first * second).sum(axis=-1) / np.maximum(size, 1e-300)
    return found
