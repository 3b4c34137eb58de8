"""Vectors into short codes, level by level, each level for what the levels before it left over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast._registry import Registry
from holdfast.items.assignment import even, prices
from holdfast.items.kmeans import Clusters, Say, kmeans, means, nearest

NOTHING = 1e-5
"""What is left of a vector, relative to its length, that is rounding and not worth a code."""


@dataclass(frozen=True, eq=False)
class Quantised:
    """Codes [items, levels], a codebook [codes, dim] per level, and the vectors [items, dim] that they stand for.

    A vector is nearly the sum of its codes' rows. The vectors are the embeddings, or where there are `networks`
    (tensors by name), what their encoder makes of them.
    """

    codes: Tensor
    codebooks: tuple[Tensor, ...]
    vectors: Tensor
    networks: Mapping[str, Tensor] = field(default_factory=dict)


class Quantiser(Protocol):
    """Makes codes from embeddings [items, dim] float32; the same seed gives the same codes."""

    def __call__(self, embeddings: Tensor, *, seed: int = 0, progress: Say | None = None) -> Quantised: ...


quantisers: Registry[Callable[..., Quantiser]] = Registry("quantiser")
"""Every quantiser by its name; its settings are its knobs."""


@quantisers.register("residual")
@dataclass(frozen=True)
class Residual:
    """Residual k-means: each level clusters what the codes so far leave of each embedding (Juang and Gray 1982).

    `levels` codes for each item, `codes` of them to choose from at each level, or a list with a number for each.
    Where fewer distinct vectors are left than codes, each gets a code, and the rest of the codebook stands at their
    mean: codes of nobody, which make an ID unique where items share all others.
    """

    levels: int = 3
    codes: int | Sequence[int] = 256
    iterations: int = 300

    def __call__(self, embeddings: Tensor, *, seed: int = 0, progress: Say | None = None) -> Quantised:
        """Codes of embeddings [items, dim]; raises BadInput for embeddings or settings that cannot be used."""

        def fit(points: Tensor, codes: int, seed: int, say: Say) -> Clusters:
            return kmeans(points, codes, seed=seed, iterations=self.iterations, progress=say)

        return level_by_level(embeddings, sizes(self.levels, self.codes), fit, seed, progress)


@quantisers.register("balanced")
@dataclass(frozen=True)
class Balanced:
    """Residual k-means whose clusters are of equal size, floor(items / codes) or one more, at every level.

    Items are assigned at the least total squared distance that the sizes allow (after Bradley, Bennett and Demiriz
    2000, MSR-TR-2000-65, who have a lower bound only); exact, given the centres. The centres come from k-means,
    then `iterations` of assignment at prices that even out demand, and two rounds of exact assignment.
    """

    levels: int = 3
    codes: int | Sequence[int] = 256
    iterations: int = 20

    def __call__(self, embeddings: Tensor, *, seed: int = 0, progress: Say | None = None) -> Quantised:
        """Codes of embeddings [items, dim]; raises BadInput for embeddings or settings that cannot be used."""

        def fit(points: Tensor, codes: int, seed: int, say: Say) -> Clusters:
            return balanced(points, codes, seed=seed, iterations=self.iterations, progress=say)

        return level_by_level(embeddings, sizes(self.levels, self.codes), fit, seed, progress)


def balanced(
    points: Tensor, clusters: int, *, seed: int = 0, iterations: int = 20, progress: Say | None = None
) -> Clusters:
    """K-means of points [points, dim] with clusters of floor(points / clusters) points, or one more."""
    found = kmeans(points, clusters, seed=seed, progress=progress)
    middle = points.mean(0)
    centred, centres, labels, surcharges = points - middle, found.centres - middle, found.labels, None
    for i in range(iterations):
        costs = squared(centred, centres)
        surcharges = prices(costs, start=surcharges, rounds=50 if surcharges is None else 5)
        before, labels = labels, (costs + surcharges).argmin(1)
        centres = _moved(centred, labels, centres)
        if progress:
            progress(f"evening out, iteration {i + 1} of {iterations}")
        if torch.equal(before, labels):
            break
    for i in range(2):
        if progress:
            progress(f"exact assignment {i + 1} of 2")
        labels = even(squared(centred, centres), surcharges)
        centres = _moved(centred, labels, centres)
    inertia = float((centred - centres[labels]).square().sum(dtype=torch.float64))
    return Clusters(centres + middle, labels, inertia)


def level_by_level(
    embeddings: Tensor,
    codes: Sequence[int],
    fit: Callable[[Tensor, int, int, Say], Clusters],
    seed: int,
    progress: Say | None,
) -> Quantised:
    """Fit a codebook to the embeddings, the next one to what its centres leave of them, and so on."""
    check_vectors(embeddings)
    left, labels, codebooks = embeddings.float(), [], []
    for level, size in enumerate(codes):
        at = f"level {level + 1} of {len(codes)}"
        found = fit(left, size, seed + level, lambda line, at=at: progress(f"{at}: {line}") if progress else None)  # type: ignore[misc]
        labels.append(found.labels)
        codebooks.append(found.centres)
        left = without_rounding(left - found.centres[found.labels], embeddings)
        if progress:
            progress(f"{at}: done, {len(torch.unique(found.labels))} codes of {size} in use")
    return Quantised(torch.stack(labels, 1), tuple(codebooks), embeddings.float())


def nearest_codes(vectors: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """Codes [vectors, levels]: at each level the code nearest to what the levels before it leave."""
    left, found = vectors, []
    for book in codebooks:
        code, _ = nearest(left, book)
        found.append(code)
        left = without_rounding(left - book[code], vectors)
    return torch.stack(found, 1)


def residuals(vectors: Tensor, codes: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """What the codes [items, some levels] leave of the vectors [items, dim]; rounding is taken for nothing."""
    left = vectors
    for level in range(codes.shape[1]):
        left = left - codebooks[level][codes[:, level]]
    return without_rounding(left, vectors) if codes.shape[1] else left


def without_rounding(left: Tensor, whole: Tensor) -> Tensor:
    """What is left [items, dim], zero where it is no more than the rounding of the whole [items, dim]."""
    return left.masked_fill(left.norm(dim=1, keepdim=True) <= NOTHING * whole.norm(dim=1, keepdim=True), 0.0)


def squared(points: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances [points, centres]."""
    found = torch.addmm(centres.square().sum(1), points, centres.T, alpha=-2)
    return found.add_(points.square().sum(1)[:, None]).clamp_(min=0)


def sizes(levels: int, codes: int | Sequence[int]) -> tuple[int, ...]:
    """Codes at each level; raises BadInput for settings that make no ID."""
    each = (codes,) * levels if isinstance(codes, int) else tuple(codes)
    if not 1 <= levels <= 26:
        raise BadInput(f"IDs have 1 to 26 levels, a letter for each, not {levels}.")
    if len(each) != levels or min(each) < 1:
        raise BadInput(f"`codes` is a number, or a number above 0 for each of {levels} levels, not {codes!r}.")
    return each


def check_vectors(embeddings: Tensor) -> None:
    """Raise BadInput unless the embeddings are [items, dim] with an item at least, and finite."""
    if embeddings.ndim != 2 or not embeddings.numel():
        raise BadInput(f"Embeddings are [items, dim], with an item at least, not {[*embeddings.shape]}.")
    if not bool((fine := embeddings.isfinite().all(1)).all()):
        wrong = (~fine).nonzero()[:, 0].tolist()
        raise BadInput(
            f"The embeddings of {len(wrong)} items are not finite, the first in row {wrong[0]} (counted from 0). "
            "Embed the items again."
        )


def _moved(points: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """The mean of each cluster's points; a centre without points stays where it is."""
    found, counted = means(points, labels, len(centres))
    return torch.where((counted > 0)[:, None], found, centres)
