"""The likeliest items after each prompt: constrained beam search, and which way of it a model takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.data.quiet import quiet
from holdfast.data.rows import padding
from holdfast.evaluation.loss import logits_of, writes
from holdfast.evaluation.metrics.branching import takes
from holdfast.items.encoding import encoded
from holdfast.items.processor import check_end, generated
from holdfast.items.search import follows, search, virtual
from holdfast.items.trie import Item, Trie
from holdfast.params.heads import classifies, unwrapped

LOGITS = 2**27
"""Most elements of the logits of one batch (512 MiB in float32)."""

MOST = 64
"""Most prompts of one batch unless told."""

ALIKE = 1e-3
"""Nats by which both ways of scoring a path may differ in float32; a wrong mask or place is off by far more."""

Way = Literal["auto", "search", "generate"]
Found = list[list[tuple[Item, float]]]


def recommend(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    trie: Trie[Item],
    *,
    k: int = 10,
    beams: int = 50,
    batch_size: int | None = None,
    exclude: Sequence[Collection[Item]] | None = None,
    length_penalty: float = 0.0,
    by_id: bool = False,
    way: Way = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Found[Item]:
    """The `k` likeliest items after each prompt with their scores, the best first, equals in the items' order.

    A prompt is a text (BOS before it where the tokenizer has one) or token ids, which are taken as they are; one that
    leaves no room for an ID loses its beginning. A score is the log-probability of the ID's tokens after the prompt,
    by the softmax over the whole vocabulary; where an ID is the beginning of another, that of EOS after it counts too.
    A `length_penalty` divides it by (tokens of the ID) ** length_penalty, once the paths are found.

    Beam search with `beams` paths (at least k), nothing drawn, whatever the model's own generation settings say; exact
    where there are no more paths than beams. Every result is an item. `exclude` has for each prompt the items that are
    not wanted: the search goes through the trie of the others, so that no beam is spent on them and min(k, items left)
    come out always; fewer than k only where fewer are left. With `by_id` items that share an ID count as one: all items
    of the k likeliest IDs come out. In batches of `batch_size`; a prompt's items do not depend
    on the others beyond rounding. Mode of the model and random state stay. `progress(done, all)` is told after
    each batch.

    By `way` "search" (see there) a prompt is read once, by "generate" once per beam; "auto" searches with models
    that this is right for, by their kind and by two paths of the first batch read once more in the plain way (which
    costs two prompts), and generates with the others (encoder-decoders, windows, recurrence, virtual tokens).

    Raises BadInput for settings out of range, an empty prompt, tokens that the model lacks, and excluded items that
    the trie does not have; Unsupported for a model that writes no text, or that cannot go the way asked for.
    """
    unwanted = [frozenset(items) for items in exclude] if exclude is not None else [frozenset[Item]()] * len(prompts)
    _check(model, trie, k, beams, batch_size, way)
    if len(unwanted) != len(prompts):
        raise BadInput(
            f"There are {len(prompts)} prompts, and excluded items for {len(unwanted)}. Give a set for each."
        )
    check_end(trie, tokenizer.eos_token_id)
    rows = [encoded(model, tokenizer, prompt, trie.depth) for prompt in prompts]
    for items in unwanted:
        trie.numbers(items)
    found: Found[Item] = [[] for _ in prompts]
    with quiet(model) as device:
        asked = _Asked(model, tokenizer, trie.to(device), k, max(k, beams), length_penalty, by_id)
        done = 0
        for places, answers in asked.batches(rows, unwanted, batch_size, way):
            for i, answer in zip(places, answers, strict=True):
                found[i] = answer
            done += len(places)
            if progress is not None:
                progress(done, len(rows))
    return found


@dataclass(frozen=True)
class _Asked(Generic[Item]):
    """A question to a model: which of these items, how many, how thoroughly; the trie lies on the model's device."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    trie: Trie[Item]
    k: int
    beams: int
    length_penalty: float
    by_id: bool = False

    def batches(
        self, rows: Sequence[list[int]], unwanted: Sequence[frozenset[Item]], size: int | None, way: Way
    ) -> Iterator[tuple[list[int], Found[Item]]]:
        """The prompts' numbers, batch by batch, the longest first, and their items."""
        places = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
        doubtful = way == "auto" and follows(self.model)
        way = "search" if doubtful else "generate" if way == "auto" else way
        while places:
            batch = places[: self._size([len(rows[i]) for i in places], size, way)]
            asked = [i for i in batch if len(unwanted[i]) < len(self.trie.items)]
            texts, gone = [rows[i] for i in asked], [unwanted[i] for i in asked]
            states, scores = self._paths(texts, gone, way)
            if doubtful and asked and not self._holds(texts, states, scores):
                way, doubtful = "generate", False
                continue
            doubtful = doubtful and not asked
            answers = dict(zip(asked, self._ranked(states, scores, gone), strict=True))
            yield batch, [answers.get(i, []) for i in batch]
            places = places[len(batch) :]

    def _size(self, lengths: Sequence[int], size: int | None, way: Way) -> int:
        """How many of the next prompts make a batch: `generate` holds the logits of a step several times.

        Before padding virtual tokens would stand too far from the text, so that only equals share a batch there.
        """
        vocabulary = getattr(self.model.config.get_text_config(), "vocab_size", None) or self.trie.width
        memory = LOGITS // (vocabulary * self.beams * (1 if way == "search" else 4))
        size = size or min(MOST, max(1, memory))
        return min(size, lengths.count(lengths[0])) if virtual(self.model) else size

    def _holds(self, rows: Sequence[list[int]], states: Tensor, scores: Tensor) -> bool:
        """Whether a search gave the last path of its longest and its shortest prompt the score that plain reading does.

        Models that put tokens elsewhere, or look elsewhere, than their config tells would else be searched wrongly.
        """
        rounding = max(ALIKE, 4 * torch.finfo(self.model.dtype).eps)
        for i in {0, len(rows) - 1}:
            last = int(scores[i].masked_fill(scores[i] == -math.inf, math.inf).argmin())
            plain = self._read(rows[i], int(states[i, last]))
            if not math.isclose(float(scores[i, last]), plain, rel_tol=rounding, abs_tol=rounding):
                return False
        return True

    def _read(self, prompt: list[int], state: int) -> float:
        """The log-probability of a path after a prompt, in one row without padding or cache."""
        path = self.trie.path(state)
        if self.trie.branching[state]:
            path.append(self.tokenizer.eos_token_id)
        kept = len(path) + 1
        ids = torch.tensor([prompt + path], device=self.trie.keys.device)
        logits = logits_of(self.model, {"input_ids": ids}, kept if takes(self.model, "logits_to_keep") else None)
        return -float(cross_entropy(logits[0, -kept:-1].float(), ids[0, -len(path) :], reduction="sum"))

    def _paths(self, rows: Sequence[list[int]], gone: Sequence[frozenset[Item]], way: Way) -> tuple[Tensor, Tensor]:
        """Where IDs end after the prompts of a batch, and their log-probabilities."""
        if not rows:
            return torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0)
        side, device = "right" if writes(self.model) else "left", self.trie.keys.device
        pad, end, left = padding(self.tokenizer), self.tokenizer.eos_token_id, self.trie.without(gone)
        tensors = [torch.tensor(row, device=device) for row in rows]
        ids = pad_sequence(tensors, True, pad, side)
        mask = pad_sequence([torch.ones_like(row) for row in tensors], True, 0, side)
        if way == "generate":
            return generated(self.model, ids, mask, self.trie, left, beams=self.beams, end=end, pad=pad)
        wanted = None if self.length_penalty else self.k
        return search(self.model, ids, mask, self.trie, left, beams=self.beams, wanted=wanted, end=end)

    def _ranked(self, states: Tensor, scores: Tensor, gone: Sequence[frozenset[Item]]) -> Found[Item]:
        """The items where paths end, the best first."""
        scaled = (scores / self.trie.lengths[states] ** self.length_penalty).tolist()
        return [self._items(*line) for line in zip(states.tolist(), scaled, gone, strict=True)]

    def _items(self, states: list[int], scores: list[float], gone: frozenset[Item]) -> list[tuple[Item, float]]:
        scored = [
            (-score, left)
            for state, score in zip(states, scores, strict=True)
            if score > -math.inf and (left := [n for n in self.trie.at(state) if self.trie.items[n] not in gone])
        ]
        ranked = sorted((score, number) for score, left in sorted(scored)[: self.k] for number in left)
        return [(self.trie.items[number], -score) for score, number in ranked[: None if self.by_id else self.k]]


def _check(model: Any, trie: Trie[Item], k: int, beams: int, batch_size: int | None, way: Way) -> None:
    """Raise BadInput for settings out of range, Unsupported for models that cannot do it."""
    for name, value in (("k", k), ("beams", beams), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise BadInput(f"{name} = {value}: give at least 1.")
    if way not in get_args(Way):
        raise UnknownName("way", way, get_args(Way))
    if classifies(model) or not getattr(unwrapped(model), "can_generate", bool)():
        raise Unsupported("Items are recommended by language models that write; this model writes no text.")
    if way == "search" and not follows(model):
        raise Unsupported("This model cannot read its beams behind one another. Ask for way='generate' or 'auto'.")
