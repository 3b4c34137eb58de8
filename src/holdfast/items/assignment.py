"""Who gets which code where places are limited: the least total cost, exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from holdfast._errors import BadInput

Figures = NDArray[np.float64]
Numbers = NDArray[np.int64]


def even(costs: Tensor, start: Tensor | None = None) -> Tensor:
    """A column for each row [rows], each column floor(rows / columns) times or once more, at the least total cost.

    Exact: what `prices` leave uneven in the costs [rows, columns] is moved along shortest paths. With prices to
    `start` from, that is from earlier costs much like these, it is faster.
    """
    rows, columns = costs.shape
    surcharges = prices(costs, start=start).double().cpu().numpy()
    least, more = divmod(rows, columns)
    sizes = np.full(columns, least)
    sizes[np.argsort(-surcharges, kind="stable")[:more]] += 1
    lower, upper = np.full(columns, least), np.full(columns, least + (more > 0))
    return _paths(costs, surcharges, sizes, lower, upper)


def placed(costs: Tensor, wanted: Tensor, places: Tensor) -> Tensor:
    """A column for each row [rows], at most `places` [columns] rows in each: the `wanted` one [rows] where it can be.

    Rows that want a column with places enough keep it. Those that compete for the others get them, and what is free
    elsewhere, at the least total cost [rows, columns] among them; exact.

    Raises BadInput when there are more rows than places.
    """
    if len(wanted) > int(places.sum()):
        raise BadInput(f"{len(wanted)} items cannot share {int(places.sum())} places.")
    demand = torch.bincount(wanted, minlength=len(places))
    crowded = (demand > places)[wanted]
    found, free = wanted.clone(), places - torch.where(demand > places, 0, demand)
    if crowded.any():
        single = int(free.max()) == 1
        found[crowded] = _one_each(costs[crowded], free) if single else _at_most(costs[crowded], free)
    return found


def prices(
    costs: Tensor, *, start: Tensor | None = None, sharpness: float = 200.0, rounds: int = 50, ends: float = 0.02
) -> Tensor:
    """Prices of columns [columns] at which `(costs + prices).argmin(1)` takes each about equally often.

    Sinkhorn's iteration (Cuturi 2013, arXiv:1306.0895) in its dual form, for rows of one unit and columns of equal
    shares, with an entropy of 1 / `sharpness` times the mean spread of a row's costs [rows, columns]. It begins soft
    and ends sharp; with prices to `start` from it is sharp throughout. It ends early when no column's share is off
    by more than `ends` of what it should be.
    """
    spread = float(costs.std(1).mean()) if costs.shape[1] > 1 else 0.0
    found = costs.new_zeros(costs.shape[1]) if start is None else start.clone()
    if spread <= 0:
        return found
    fair = costs.shape[0] / costs.shape[1]
    begin = min(10.0, sharpness) if start is None else sharpness
    for i in range(rounds):
        sharp = min(sharpness, begin * (sharpness / begin) ** (2 * i / rounds))
        demand = torch.softmax((costs + found).mul_(-sharp / spread), 1).sum(0)
        found += spread / sharp * (demand / fair).clamp_(min=1e-6).log_()
        if sharp == sharpness and float((demand / fair - 1).abs().max()) < ends:
            break
    return found - found.mean()


def _one_each(costs: Tensor, places: Tensor) -> Tensor:
    """Rows into columns with one place or none."""
    columns = places.nonzero()[:, 0]
    _, taken = linear_sum_assignment(costs[:, columns].double().cpu().numpy())
    return columns[torch.from_numpy(taken).to(columns.device)]


def _at_most(costs: Tensor, places: Tensor) -> Tensor:
    upper = places.cpu().numpy()
    nearest = np.bincount(costs.argmin(1).cpu().numpy(), minlength=len(upper))
    return _paths(costs, np.zeros(len(upper)), np.minimum(nearest, upper), np.zeros_like(upper), upper)


def _paths(costs: Tensor, surcharges: Figures, sizes: Numbers, lower: Numbers, upper: Numbers) -> Tensor:
    """The assignment of least total cost whose column sizes lie between the bounds.

    Successive shortest paths (Ahuja, Magnanti and Orlin 1993, section 9.7): rows at the cheapest column under the
    surcharges are at the least cost for the sizes that this gives, and every move along a cheapest path keeps it so.
    The sizes aimed at first have to suit the surcharges: dear columns at their upper bound, cheap ones at the lower.
    """
    table = costs.double().cpu().numpy()
    moves = _Moves(table, (table + surcharges).argmin(1), sizes.copy(), lower, upper)
    while (path := moves.cheapest()) is not None:
        moves.along(path)
    return torch.from_numpy(moves.labels).to(costs.device)


@dataclass
class _Moves:
    """Rows on their way: columns are nodes, and so is the pool of places that a column may have or not.

    A step from column to column moves the row that costs least; from a column to the pool, the column keeps a row
    more; from the pool to a column, it has to do with a row less.
    """

    costs: Figures
    labels: Numbers
    sizes: Numbers
    lower: Numbers
    upper: Numbers
    steps: Figures = field(init=False)  # [to, from], so that the cheapest way to a node is found along a row
    movers: Numbers = field(init=False)
    excess: Numbers = field(init=False)
    slack: float = field(init=False)

    def __post_init__(self) -> None:
        columns = self.costs.shape[1]
        self.slack = 1e-13 * float(np.abs(self.costs).max())  # rounding must not make a circle worth going round
        self.steps = np.full((columns + 1, columns + 1), np.inf)
        self.movers = np.zeros((columns, columns), dtype=np.int64)
        self.excess = np.bincount(self.labels, minlength=columns) - self.sizes
        self.excess = np.append(self.excess, -self.excess.sum())
        for column in range(columns):
            self._look(column)

    def cheapest(self) -> list[int] | None:
        """The cheapest path from a node with rows too many to one with too few (Bellman and Ford); None at the end."""
        if not (self.excess > 0).any():
            return None
        far = np.where(self.excess > 0, 0.0, np.inf)
        came = np.full(len(far), -1)
        while True:
            through = far + self.steps
            over = through.argmin(1)
            ahead = through[np.arange(len(far)), over]
            better = ahead + self.slack < far
            if not better.any():
                break
            far, came = np.where(better, ahead, far), np.where(better, over, came)
        path = [int(np.where(self.excess < 0, far, np.inf).argmin())]
        while came[path[0]] >= 0:
            path.insert(0, int(came[path[0]]))
        return path

    def along(self, path: list[int]) -> None:
        """Move one row on each step of the path, or all that cost the same where it is one step."""
        pool = len(self.sizes)
        rows = min(self.excess[path[0]], -self.excess[path[-1]]) if len(path) == 2 and pool not in path else 1
        for a, b in pairwise(path):
            if b == pool:
                self.sizes[a] += 1
            elif a == pool:
                self.sizes[b] -= 1
            else:
                rows = self._move(a, b, int(rows))
        self.excess[path[0]] -= rows
        self.excess[path[-1]] += rows
        for column in path:
            if column != pool:
                self._look(column)

    def _move(self, a: int, b: int, at_most: int) -> int:
        if at_most == 1:
            self.labels[self.movers[a, b]] = b
            return 1
        rows = np.flatnonzero(self.labels == a)
        same = rows[self.costs[rows, b] - self.costs[rows, a] <= self.steps[b, a]][:at_most]
        self.labels[same] = b
        return len(same)

    def _look(self, column: int) -> None:
        """What the cheapest steps from this column cost, after its rows or its size changed."""
        rows, pool = np.flatnonzero(self.labels == column), len(self.sizes)
        self.steps[:pool, column] = np.inf
        if len(rows):
            extra = np.ascontiguousarray(self.costs[rows].T) - self.costs[rows, column]
            first = extra.argmin(1)
            self.steps[:pool, column] = extra[np.arange(pool), first]
            self.movers[column] = rows[first]
        self.steps[column, column] = np.inf
        self.steps[pool, column] = 0.0 if self.sizes[column] < self.upper[column] else np.inf
        self.steps[column, pool] = 0.0 if self.sizes[column] > self.lower[column] else np.inf
