"""The diagonal Fisher information under the model's own predictions, instead of the labels that stand in the data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from holdfast._errors import BadInput
from holdfast.params.differentiation import (
    TARGETS,
    WEIGHTS,
    Importance,
    Progress,
    over_examples,
    predictions,
    weighed_losses,
)
from holdfast.params.per_example import Batch, itself


def fisher_sampled(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    paths: Collection[str] | None = None,
    seed: int = 0,
    chunk_bytes: int = 8 * 2**20,
    progress: Progress = None,
) -> Importance:
    """As `fisher`, with one label drawn from the model at each position that bears a label: the estimator SAMPLE.

    F = 1/n * sum over the n sequences of (d L_i / d w)^2, where L_i is the sum of -log p(y_t | x_<t) in nats, with
    y_t drawn from p(. | x_<t) and x the text as it stands. Its mean over draws is what `fisher_exact` enumerates
    (van de Ven, arXiv:2502.11756). A sequence's draws depend on `seed` and on its place among the sequences, not on
    how they are batched. Costs one forward pass more than `fisher`. Other arguments and errors as there.
    """
    drawn = _drawn(model, batches, seed)
    return over_examples(model, drawn, weighed_losses, itself, paths=paths, chunk_bytes=chunk_bytes, progress=progress)


def fisher_exact(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    paths: Collection[str] | None = None,
    positions: int | None = 4,
    classes: int | None = 1,
    seed: int = 0,
    chunk_bytes: int = 8 * 2**20,
    progress: Progress = None,
) -> Importance:
    """The expectation over the model's own labels, token by token: the estimator EXACT of arXiv:2502.11756.

    F = 1/n * sum over sequences i, positions t and tokens v of p(v | x_<t) (d log p(v | x_<t) / d w)^2, with x the
    text as it stands. Labels drawn independently at each position have scores of mean zero, so cross terms between
    positions vanish, and this is the exact mean of `fisher_sampled` over its draws. It takes a gradient for each
    token of the vocabulary at each position, so its cost is bounded: of each sequence `positions` are drawn, each
    counting for as many as it stands for, and at each the `classes` likeliest tokens are enumerated, while one token
    drawn from all others carries their whole probability. Both leave the mean as it is; with None for both nothing
    is drawn. A sequence then costs positions * (classes + 1) gradients, where `fisher` costs one. Progress counts
    sequences; other arguments and errors as in `fisher`, and BadInput for bounds below 1.
    """
    if min(positions or 1, classes or 1) < 1 or 0 in (positions, classes):
        raise BadInput(f"fisher_exact needs at least one position and class, not {positions} and {classes}.")
    expanded = _Expanded(model, positions, classes, seed, progress)
    sums = over_examples(model, expanded(batches), weighed_losses, itself, paths=paths, chunk_bytes=chunk_bytes)
    return {path: t * (expanded.terms / expanded.sequences) for path, t in sums.items()}


def _generator(seed: int, sequence: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + sequence)  # of which 32 bits count


def _on(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {k: v.to(device) for k, v in batch.items()}


def _picked(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One index for each row of probabilities [rows, classes], which need not sum to 1, by inverting their sums."""
    sums = probabilities.double().cumsum(-1)
    height = torch.rand(len(sums), 1, generator=generator, dtype=torch.float64).to(sums.device) * sums[:, -1:]
    return torch.searchsorted(sums, height, right=True).clamp_(max=sums.shape[-1] - 1)[:, 0]


def _drawn(model: nn.Module, batches: Iterable[Batch], seed: int) -> Iterator[dict[str, Tensor]]:
    """Each batch with labels of the model's own."""
    done = 0
    for batch in (_on(model, batch) for batch in batches):
        logits, labels = predictions(model, batch)
        bears = labels.ne(-100)
        targets = torch.zeros_like(labels)
        for row, asked in enumerate(bears):
            targets[row, asked] = _picked(logits[row, asked].float().softmax(-1), _generator(seed, done + row))
        done += len(labels)
        yield {**batch, TARGETS: targets, WEIGHTS: bears.float()}


@dataclass
class _Expanded:
    """Turns batches of sequences into batches of (sequence, position, token), as many rows at a time."""

    model: nn.Module
    positions: int | None
    classes: int | None
    seed: int
    progress: Progress
    sequences: int = 0
    terms: int = 0

    def __call__(self, batches: Iterable[Batch]) -> Iterator[dict[str, Tensor]]:
        for batch in (_on(self.model, batch) for batch in batches):
            logits, labels = predictions(self.model, batch)
            size = len(labels)
            terms = (t for row in range(size) for t in self._terms(row, logits[row], labels[row].ne(-100)))
            while some := list(islice(terms, size)):
                self.terms += len(some)
                yield _single(batch, some, labels)
            self.sequences += size
            if self.progress:
                self.progress(self.sequences)

    def _terms(self, row: int, logits: Tensor, bears: Tensor) -> Iterator[tuple[int, int, int, float]]:
        """Row, position, token and weight of each square that is added up for one sequence."""
        generator, places = _generator(self.seed, self.sequences + row), bears.nonzero()[:, 0]
        if self.positions is not None and self.positions < len(places):
            chosen = places[torch.randperm(len(places), generator=generator)[: self.positions].to(places.device)]
        else:
            chosen = places
        for place in chosen.tolist():
            for token, weight in self._tokens(logits[place].float().softmax(-1), generator):
                yield row, place, token, weight * len(places) / len(chosen)

    def _tokens(self, probability: Tensor, generator: torch.Generator) -> Iterator[tuple[int, float]]:
        if self.classes is None or self.classes >= len(probability):
            yield from enumerate(probability.tolist())
            return
        weights, tokens = probability.topk(self.classes)
        yield from zip(tokens.tolist(), weights.tolist(), strict=True)
        rest = probability.index_fill(0, tokens, 0.0)
        yield int(_picked(rest[None], generator)), float(rest.sum(dtype=torch.float64))


def _single(batch: Batch, terms: list[tuple[int, int, int, float]], labels: Tensor) -> dict[str, Tensor]:
    """A row for each term, whose only target has the root of its weight, so that its square has the weight."""
    rows, places, tokens, weights = (torch.tensor(column, device=labels.device) for column in zip(*terms, strict=True))
    targets, roots = labels.new_zeros(len(terms), labels.shape[1]), weights.new_zeros(len(terms), labels.shape[1])
    each = torch.arange(len(terms), device=labels.device)
    targets[each, places], roots[each, places] = tokens, weights.sqrt()
    return {**{k: v[rows] for k, v in batch.items()}, TARGETS: targets, WEIGHTS: roots.float()}
