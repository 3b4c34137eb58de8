"""K-means in torch: greedy k-means++, a warm start on a sample, and Lloyd's iterations over all points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast._errors import BadInput

Say = Callable[[str], None]
"""Takes one line about how far long work is."""

BLOCK = 16_384
"""Points whose distances to all centres are held at once."""

SAMPLE = 64
"""Points per centre that the seeding and the warm start look at; faiss takes 256 at most for all of its training."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centres [clusters, dim] float32, the cluster of each point [points], and the sum of squared distances."""

    centres: Tensor
    labels: Tensor
    inertia: float


def kmeans(
    points: Tensor,
    clusters: int,
    *,
    seed: int = 0,
    iterations: int = 300,
    tolerance: float = 1e-4,
    centres: Tensor | None = None,
    progress: Say | None = None,
) -> Clusters:
    """Cluster points [points, dim] by Lloyd's algorithm (1982), from greedy k-means++ (Arthur and Vassilvitskii 2007).

    With many points per centre, a sample is clustered first and its centres are where all points start from. A
    cluster that loses its last point is given the point that is farthest from its centre. It ends when an iteration
    lowers the sum of squared distances by less than `tolerance` of itself, or after so many iterations; the labels are
    always those of the nearest centre, which is then the mean of its points but for that tolerance.

    Where there are no more distinct points than clusters, each is a centre by itself and the centres left over stand
    at the mean of all points: codes that nobody has, and that somebody may be given.

    Args:
        points: float tensor on any device, without NaN.
        seed: of the seeding alone, in a generator of its own.
        centres: where to start instead [clusters, dim]; neither seeding nor sample then.
        progress: takes a line every few iterations.

    Raises:
        BadInput: no points, fewer than one cluster, or starting centres of another shape.
    """
    if points.ndim != 2 or not points.numel() or clusters < 1:
        raise BadInput(f"K-means takes points [points, dim] and a cluster or more, not {[*points.shape]}, {clusters}.")
    if centres is not None and centres.shape != (clusters, points.shape[1]):
        raise BadInput(f"Starting centres of shape {[*centres.shape]} are not {[clusters, points.shape[1]]}.")
    middle = points.float().mean(0)
    centred = points.float() - middle  # distances by squares and products lose digits far from the origin
    if centres is None:
        start = _seeded(centred, clusters, torch.Generator().manual_seed(seed), iterations, tolerance)
    else:
        start = centres.to(centred) - middle
    if len(start) < clusters:
        found = _settled(centred, torch.cat([start, start.new_zeros(clusters - len(start), start.shape[1])]))
    else:
        found = _lloyd(centred, start, iterations, tolerance, progress)
    return Clusters(found.centres + middle, found.labels, found.inertia)


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each point [points] and its squared Euclidean distance [points], block by block."""
    squares = centres.square().sum(1)
    found = [torch.addmm(squares, block, centres.T, alpha=-2).min(1) for block in torch.split(points, BLOCK)]
    least = torch.cat([f.values for f in found]) + points.square().sum(1)
    return torch.cat([f.indices for f in found]), least.clamp_(min=0)


def means(points: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """The mean of each cluster's points [clusters, dim], zero where there are none, and their number [clusters]."""
    sizes = torch.bincount(labels, minlength=clusters)
    sums = points.new_zeros(clusters, points.shape[1]).index_add_(0, labels, points)
    return sums / sizes.clamp(min=1)[:, None], sizes


def _lloyd(points: Tensor, centres: Tensor, iterations: int, tolerance: float, progress: Say | None) -> Clusters:
    before = float("inf")
    for i in range(1, iterations + 1):
        labels, distances = nearest(points, centres)
        inertia = float(distances.sum(dtype=torch.float64))
        if progress and i % 10 == 0:
            progress(f"iteration {i}, mean squared distance {inertia / len(points):.5g}")
        if before - inertia <= tolerance * inertia:
            break
        before = inertia
        centres, sizes = means(points, labels, len(centres))
        centres = _filled(centres, sizes, points, distances)
    return _settled(points, centres)


def _settled(points: Tensor, centres: Tensor) -> Clusters:
    labels, distances = nearest(points, centres)
    return Clusters(centres, labels, float(distances.sum(dtype=torch.float64)))


def _filled(centres: Tensor, sizes: Tensor, points: Tensor, distances: Tensor) -> Tensor:
    """Centres without points stand where the points farthest from their own centres are."""
    empty = (sizes == 0).nonzero()[:, 0]
    if len(empty):
        centres[empty] = points[distances.topk(len(empty)).indices]
    return centres


def _seeded(points: Tensor, clusters: int, generator: torch.Generator, iterations: int, tolerance: float) -> Tensor:
    """Centres to start from; fewer than clusters where there are fewer distinct points."""
    few = clusters * SAMPLE
    if len(points) > 2 * few:
        sample = points[torch.randperm(len(points), generator=generator)[:few].to(points.device)]
        if len(start := _plus_plus(sample, clusters, generator)) == clusters:
            return _lloyd(sample, start, iterations, tolerance, None).centres
    return _plus_plus(points, clusters, generator)


def _plus_plus(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: of a few points drawn by their squared distance, the one that lowers the sum of them most.

    2 + log(clusters) draws for each centre, as in scikit-learn. It ends early where the distinct points run out.
    """
    trials = 2 + int(math.log(clusters))
    squares = points.square().sum(1)
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    left = _squared(points, squares, points[chosen])[0]
    while len(chosen) < clusters and float(left.max()) > 0:
        candidates = _drawn(left, trials, generator)
        ahead = torch.minimum(left, _squared(points, squares, points[candidates]))
        best = int(ahead.sum(1).argmin())
        chosen.append(int(candidates[best]))
        left = ahead[best]
        left[chosen[-1]] = 0.0
    return points[chosen]


def _squared(points: Tensor, squares: Tensor, few: Tensor) -> Tensor:
    """Squared distances [few, points]; what only rounding parts from zero is zero."""
    found = (squares + few.square().sum(1)[:, None]).sub_(few @ points.T, alpha=2)
    return found.masked_fill_(found <= 1e-6 * squares, 0.0)


def _drawn(weights: Tensor, times: int, generator: torch.Generator) -> Tensor:
    """Places drawn in proportion to their weights, with replacement."""
    sums = weights.cumsum(0, dtype=torch.float64)
    drawn = torch.rand(times, generator=generator, dtype=torch.float64).to(sums.device) * sums[-1]
    return torch.searchsorted(sums, drawn, right=True).clamp_(max=len(weights) - 1)
