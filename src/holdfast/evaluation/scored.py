"""What a model did on examples: statistics of each whose sums give the figure, so that any figure can be resampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.evaluation.loss import SequenceLosses

Floats = NDArray[np.float64]
Reduce = Callable[[Floats], Floats]


def ratio(sums: Floats) -> Floats:
    """Sum over weight: from [..., 2] to [...]; nan where nothing was weighed."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Floats = sums[..., 0] / sums[..., 1]
    return shares


@dataclass(frozen=True, eq=False)
class Scored:
    """One model on n examples: `stats` float64 [n, k], and `reduce`, which turns sums of them [..., k] into figures.

    A mean is the sum of right answers over their number, a loss the sum of nats over tokens, BLEU a formula of summed
    n-gram counts: resampling whole examples resamples each of them. `unit` says what the figure is measured in,
    `higher` whether more of it is better (None: neither). `answers` is what the model wrote or chose, where it did.
    `documents` int [n] numbers what is independent, None where each example is.
    """

    stats: Floats
    reduce: Reduce = field(default=ratio, repr=False)
    unit: str = "share"
    higher: bool | None = True
    answers: tuple[str, ...] = ()
    documents: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.stats)

    @property
    def figure(self) -> float:
        """The figure over all examples."""
        return float(self.reduce(self.stats.sum(axis=0)))

    def each(self) -> Tensor:
        """The figure of each example alone, float64 [n]; nan where it has nothing to score."""
        return torch.from_numpy(np.asarray(self.reduce(self.stats), dtype=np.float64))

    def items(self) -> Scored:
        """Only what is independent: examples of one document are added up; answers are left behind."""
        if self.documents is None:
            return self
        numbers = np.asarray(self.documents)
        sums = np.zeros((int(numbers.max()) + 1, self.stats.shape[1]))
        np.add.at(sums, numbers, self.stats)
        return replace(self, stats=sums, documents=None, answers=())

    @property
    def binary(self) -> bool:
        """Whether each example is right (1) or wrong (0), nothing between."""
        return self.reduce is ratio and self.unit == "share" and bool(np.isin(self.stats, (0.0, 1.0)).all())


def shares(
    values: ArrayLike, *, answers: Sequence[str] = (), unit: str = "share", higher: bool | None = True
) -> Scored:
    """One value per example [n], each counting alike; nan (nothing to score) is left out of sums."""
    given = np.asarray(values, dtype=np.float64)
    scored = np.isfinite(given)
    stats = np.stack([np.where(scored, given, 0.0), scored.astype(np.float64)], axis=-1)
    return Scored(stats, ratio, unit, higher, tuple(answers))


def of_losses(losses: SequenceLosses, *, unit: str = "nats per token") -> Scored:
    """Losses as a score: nats over tokens, parts of one document together."""
    stats = np.stack([losses.total.double().numpy(), losses.tokens.double().numpy()], axis=-1)
    documents = None if losses.documents is None else tuple(losses.documents.tolist())
    return Scored(stats, ratio, unit, False, documents=documents)


def same_examples(before: Scored, after: Scored) -> None:
    """Raise BadInput unless the two are the same measure of the same number of examples."""
    if before.stats.shape != after.stats.shape or before.unit != after.unit:
        raise BadInput("A paired comparison needs one measure of the same examples twice; these two differ.")
