"""Assignment against every possibility, and against scipy's exact solver."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.items.assignment import even, placed, prices


def random_costs(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Squared distances, with rows that come in clumps."""
    draws = torch.Generator().manual_seed(seed)
    points = torch.randn(rows, 4, generator=draws) + 3 * torch.randn(3, 4, generator=draws)[torch.arange(rows) % 3]
    return torch.cdist(points, points[torch.randperm(rows, generator=draws)[:columns]]).square()


def total(costs: Tensor, columns: Tensor) -> float:
    return float(costs.double().gather(1, columns[:, None]).sum())


def best_even(costs: Tensor) -> float:
    """The least cost by scipy: a place per column and row it may hold; idle rows fill places beyond the lower bound."""
    rows, columns = costs.shape
    least, most = rows // columns, -(-rows // columns)
    places = np.arange(columns).repeat(most)
    idle = np.where(np.tile(np.arange(most) >= least, columns), 0.0, 1e9)
    table = np.vstack([costs.double().numpy()[:, places], np.tile(idle, (len(places) - rows, 1))])
    return float(table[linear_sum_assignment(table)].sum())


@pytest.mark.parametrize(("rows", "columns"), [(40, 5), (43, 5), (200, 16), (211, 16), (5, 8), (300, 1)])
def test_even_assignment_is_the_best_there_is(rows: int, columns: int) -> None:
    costs = random_costs(rows, min(rows, columns))
    costs = torch.cat([costs, costs[:, : columns - costs.shape[1]] + 0.5], 1)
    found = even(costs)
    sizes = torch.bincount(found, minlength=columns)
    assert int(sizes.min()) == rows // columns and int(sizes.max()) == -(-rows // columns)
    assert total(costs, found) == pytest.approx(best_even(costs), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 3))
def test_even_assignment_is_the_best_of_all_that_can_be_listed(seed: int, rows: int, columns: int) -> None:
    costs = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    least, most = rows // columns, -(-rows // columns)
    fair = [c for c in product(range(columns), repeat=rows) if all(least <= c.count(k) <= most for k in range(columns))]
    best = min(total(costs, torch.tensor(c)) for c in fair)
    assert total(costs, even(costs)) == pytest.approx(best, rel=1e-6)


def test_equal_rows_are_dealt_out() -> None:
    sizes = torch.bincount(even(torch.arange(5.0).repeat(100, 1)), minlength=5)
    assert sizes.tolist() == [20] * 5


def test_prices_even_out_demand() -> None:
    costs = torch.rand(4000, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8) * 0.1
    before = torch.bincount(costs.argmin(1), minlength=8)
    after = torch.bincount((costs + prices(costs)).argmin(1), minlength=8)
    assert int(before.max()) > 1500 and int(after.min()) > 400 and int(after.max()) < 600
    assert torch.equal(prices(torch.ones(5, 3)), torch.zeros(3))


def test_rows_that_compete_are_fitted_at_the_least_cost_and_others_stay() -> None:
    costs = random_costs(20, 20, seed=3)
    wanted, places = costs.argmin(1), torch.ones(20, dtype=torch.int64)
    found = placed(costs, wanted, places)
    demand = torch.bincount(wanted, minlength=20)
    alone = demand[wanted] == 1
    assert sorted(found.tolist()) == list(range(20)) and torch.equal(found[alone], wanted[alone])
    free = [k for k in range(20) if k not in wanted[alone].tolist()]
    table = costs[~alone][:, free].double().numpy()
    assert total(costs[~alone], found[~alone]) == pytest.approx(float(table[linear_sum_assignment(table)].sum()))


def test_several_places_are_filled_at_the_least_cost() -> None:
    costs = random_costs(60, 6, seed=5)
    wanted, places = torch.zeros(60, dtype=torch.int64), torch.tensor([4, 30, 3, 13, 0, 12])
    found = placed(costs, wanted, places)
    columns = torch.arange(6).repeat_interleave(places)
    table = costs[:, columns].double().numpy()
    assert bool((torch.bincount(found, minlength=6) <= places).all())
    assert total(costs, found) == pytest.approx(float(table[linear_sum_assignment(table)].sum()), rel=1e-6)


def test_rows_with_places_enough_keep_what_they_want() -> None:
    wanted = torch.tensor([2, 2, 0])
    assert torch.equal(placed(torch.rand(3, 3), wanted, torch.tensor([1, 0, 2])), wanted)


def test_more_rows_than_places_are_refused() -> None:
    with pytest.raises(BadInput, match="3 items cannot share 2 places"):
        placed(torch.rand(3, 2), torch.tensor([0, 0, 1]), torch.tensor([1, 1]))
