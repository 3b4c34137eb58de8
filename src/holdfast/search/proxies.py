"""A cheap guess at where to train, before anything does: what the new text wants moved over what the old one needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import spearmanr
from torch import Tensor, nn

from holdfast.data.rows import Batch, Row, collate
from holdfast.params.fisher import fisher
from holdfast.params.inventory import Param, inventory
from holdfast.params.scores import gradient
from holdfast.params.select import parse
from holdfast.search.candidates import selection
from holdfast.search.ground import LEARNT, Ground
from holdfast.search.space import FULL, Space

ROWS, BATCH = 32, 8
"""Rows of the new text, and of all kept texts together, that are looked at; and how many at a time."""


@dataclass(frozen=True)
class Part:
    """A component of a block: the new text's squared gradient, summed over its elements, and the old ones' mean Fisher.

    `pull` is the first over the second: minus the loss that the part alone would save, to first order, for a given
    forgetting to second order (the natural gradient's step; Kirkpatrick et al. 2017 for the Fisher as forgetting).
    """

    component: str
    layer: int | None
    gradient: float
    fisher: float

    @property
    def pull(self) -> float:
        return self.gradient / self.fisher if self.fisher > 0 else 0.0


class Proxies:
    """The parts of a base, measured once on a few rows, and what they say of candidates."""

    def __init__(self, parts: Mapping[str, Part], params: Sequence[Param]):
        self.parts, self.params = parts, params

    def of(self, space: Space, params: Mapping[str, Any]) -> float:
        """The guess for a candidate: the root of the pulls of the parts that it moves; more is better.

        Size, learning rate and strengths do not enter, so candidates in the same places are guessed alike.
        """
        moved = {param.place for param in self.params if _moves(space, params, param)}
        return math.sqrt(sum(self.parts[place].pull for place in moved))


def measured(ground: Ground) -> Proxies:
    """Gradients on rows that are learnt from and the Fisher on rows that choose, of the base; kept texts take turns."""
    model: nn.Module = ground.base.model
    kept = [text.probe.rows for name, text in ground.choosing.items() if name != LEARNT]
    new = list(ground.texts.learn[0])[:ROWS]
    old = [row for rows in kept for row in rows[: max(1, ROWS // len(kept))]]
    params = inventory(model)
    paths = {param.path for param in params if param.dtype.is_floating_point}
    pulls = gradient(model, _batches(ground, new), paths=paths)
    squared = {path: float(g.square().sum(dtype=g.dtype)) for path, g in pulls.items()}
    del pulls
    held: Mapping[str, Tensor] = fisher(model, _batches(ground, old), paths=paths) if old else {}
    sums = {path: float(f.sum()) for path, f in held.items()}
    return Proxies(_parts([p for p in params if p.path in paths], squared, sums), params)


def _batches(ground: Ground, rows: Sequence[Row]) -> list[Batch]:
    return [collate(rows[i : i + BATCH], ground.base.pad_id) for i in range(0, len(rows), BATCH)]


def _parts(params: Sequence[Param], squared: Mapping[str, float], sums: Mapping[str, float]) -> dict[str, Part]:
    """Sums over tensors by place; without kept texts the Fisher is 1 everywhere, so that the gradient alone counts."""
    found = {}
    for place in dict.fromkeys(param.place for param in params):
        own = [param for param in params if param.place == place]
        numel = sum(param.numel for param in own)
        mean = sum(sums[param.path] for param in own) / numel if sums else 1.0
        found[place] = Part(own[0].component, own[0].layer, sum(squared[param.path] for param in own), mean)
    return found


def _moves(space: Space, params: Mapping[str, Any], param: Param) -> bool:
    """Whether a candidate trains, or changes by an adapter, this parameter of the base."""
    window = params.get("layers", space.whole)
    inside = window == space.whole or parse(f"layers({window})")(param)
    if params["method"] == FULL or "targets" not in params:
        return inside
    return inside and parse(selection(space.targets[params["targets"]]))(param)


def agreement(guesses: Sequence[float], places: Sequence[int]) -> dict[str, float] | None:
    """Spearman's rank correlation of guesses with what was found (0 is the best place), and its p-value.

    1 where the order is the same, -1 where it is turned round; None where there is nothing to compare.

    >>> agreement([3.0, 2.0, 1.0], [0, 1, 2])["correlation"]
    1.0
    """
    if len(guesses) < 3 or len(set(guesses)) < 2:
        return None
    found = spearmanr(guesses, [-place for place in places])
    return {"correlation": round(float(found.statistic), 4), "p": round(float(found.pvalue), 4), "n": len(guesses)}
