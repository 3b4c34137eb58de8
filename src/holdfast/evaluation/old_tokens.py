"""What a model that was given new tokens still does with the old ones, beside the base that it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.data.quiet import quiet
from holdfast.data.rows import IGNORED, Row, collate, documents, length_sorted_batches
from holdfast.evaluation.loss import CHUNK, SequenceLosses, bounded, logits_of, writes
from holdfast.evaluation.statistics import Interval, paired
from holdfast.vocabulary.rows import sides

COLUMNS = 64
"""Dimensions of which a head's rows are read at once."""


@dataclass(frozen=True)
class OldTokens:
    """On one text: the rise of the loss over the old tokens alone, in nats per token, and how far a logit moved.

    `logit` is the largest absolute change of a logit of an old token, over all places of the text that are scored.
    `mass` is the probability that the tuned model gives to all new tokens, on average over these places, and
    `overtaken` the share of them where a new token is the likeliest: there a greedy answer would say one.
    """

    rise: Interval
    logit: float
    mass: float = 0.0
    overtaken: float = 0.0


def beside(
    base: nn.Module, tuned: nn.Module, rows: Sequence[Row], boundary: int, *, pad_id: int = 0, batch_tokens: int = 16384
) -> OldTokens:
    """Both models on the same rows, their softmax over the tokens below `boundary` alone; pairs are documents.

    Without new rows that stand above it this is the plain comparison; with them it leaves out that probability now goes
    to new tokens, and shows what is left: whether the old ones still stand to one another as they did. Tokens of the
    rows from `boundary` on are not scored.
    """
    found, largest, new = _Sums(rows), 0.0, torch.zeros(3, dtype=torch.float64)
    with quiet(base) as device, quiet(tuned):
        bound = bounded(getattr(tuned, "config", None), batch_tokens, device)
        for chosen in length_sorted_batches([len(row["input_ids"]) for row in rows], bound):
            batch = {key: value.to(device) for key, value in collate([rows[i] for i in chosen], pad_id).items()}
            answers = batch["labels"] if writes(base) else batch["labels"][:, 1:]
            logits = logits_of(base, batch), logits_of(tuned, batch)
            for at in _chunks((answers != IGNORED) & (answers < boundary), boundary):
                before, whole = (side[at].float() for side in logits)
                before, after = before[:, :boundary], whole[:, :boundary]
                found.add(torch.tensor(chosen)[at[0].cpu()], answers[at], before, after)
                largest = max(largest, _largest(before, after))
                new += _new(whole, boundary)
    count, mass, overtaken = new.tolist()
    return OldTokens(found.rise(), largest, mass / max(count, 1), overtaken / max(count, 1))


def _new(logits: Tensor, boundary: int) -> Tensor:
    """How many places these are, and summed over them the probability of new tokens, and where one is likeliest."""
    mass = logits.softmax(-1)[:, boundary:].sum().double().cpu()
    first = (logits.argmax(-1) >= boundary).sum().double().cpu()
    return torch.stack([torch.tensor(float(len(logits)), dtype=torch.float64), mass, first])


def old_rows(base: Any, tuned: Any, boundary: int) -> float:
    """The largest absolute change of a number in the rows of the tokens below `boundary`, of embedding and head.

    What the layers do is compared, not what they hold, so that an adapter on one of them counts.
    """
    with quiet(base) as device, quiet(tuned):
        (into, head), (into_now, head_now) = sides(base), sides(tuned)
        width = base.get_input_embeddings().weight.shape[1]
        ids = torch.split(torch.arange(boundary, device=device), max(1, CHUNK // width))
        changes = [_largest(into(part[None]), into_now(part[None])) for part in ids]
        if head is not None:
            units = torch.split(torch.eye(head.weight.shape[1], device=device, dtype=base.dtype), COLUMNS)
            changes += [_largest(head(unit)[:, :boundary], head_now(unit)[:, :boundary]) for unit in units]
    return max(changes)


class _Sums:
    """Losses of both models, summed by row."""

    def __init__(self, rows: Sequence[Row]):
        self._documents = torch.tensor(documents(rows), dtype=torch.int64)
        self._tokens = torch.zeros(len(rows), dtype=torch.int64)
        self._before, self._after = (torch.zeros(len(rows), dtype=torch.float64) for _ in range(2))

    def add(self, owners: Tensor, answers: Tensor, old: Tensor, new: Tensor) -> None:
        """Take some tokens in: the rows that they are of, what they are, and the logits before and after."""
        self._tokens.index_add_(0, owners, torch.ones_like(owners))
        for total, logits in ((self._before, old), (self._after, new)):
            total.index_add_(0, owners, cross_entropy(logits, answers, reduction="none").cpu().double())

    def rise(self) -> Interval:
        """The rise of the loss, in pairs of documents."""
        before, after = (SequenceLosses(one, self._tokens, self._documents) for one in (self._before, self._after))
        return paired(before, after)


def _largest(before: Tensor, after: Tensor) -> float:
    return float((after.float() - before.float()).abs().max())


def _chunks(kept: Tensor, vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and positions of the scored tokens, a bounded number at a time."""
    owners, places = kept.nonzero(as_tuple=True)
    size = max(1, CHUNK // vocabulary)
    yield from zip(torch.split(owners, size), torch.split(places, size), strict=True)
