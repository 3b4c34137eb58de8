"""The matrix of a sequence: its figures against loops over the definitions, and its intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap, ttest_1samp

from holdfast._errors import BadInput
from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.matrix import FIGURES, Items, Matrix, figures, items, over_seeds


def by_definition(a: np.ndarray, higher: bool = True) -> dict[str, float]:
    """Lopez-Paz & Ranzato's and Chaudhry et al.'s definitions, one index at a time; a[i][j], tasks j from 1."""
    last = len(a) - 1
    sign = 1 if higher else -1
    at = {(i, j): sign * a[i][j - 1] for i in range(last + 1) for j in range(1, last + 1)}
    told = {
        "accuracy": sign * sum(at[last, j] for j in range(1, last + 1)) / last,
        "learning_accuracy": sign * sum(at[j, j] for j in range(1, last + 1)) / last,
        "backward_transfer": math.nan,
        "forward_transfer": math.nan,
        "forgetting": math.nan,
    }
    if last > 1:
        told["backward_transfer"] = sum(at[last, j] - at[j, j] for j in range(1, last)) / (last - 1)
        told["forward_transfer"] = sum(at[j - 1, j] - at[0, j] for j in range(2, last + 1)) / (last - 1)
        lost = [max(at[i, j] for i in range(j, last)) - at[last, j] for j in range(1, last)]
        told["forgetting"] = sum(lost) / (last - 1)
    return told


@given(
    st.integers(1, 5).flatmap(lambda n: arrays(np.float64, (n + 1, n), elements=st.floats(0, 1, width=32))),
    st.booleans(),
)
def test_the_figures_are_those_of_the_definitions(values: np.ndarray, higher: bool) -> None:
    assert {k: float(v) for k, v in figures(values, higher).items()} == pytest.approx(
        by_definition(values, higher), nan_ok=True
    )


def test_transfer_is_divided_by_one_task_less_than_there_are() -> None:
    """Two published score scripts divide BWT by T; three tasks of which two lost 0.3 have lost 0.3 on average."""
    values = np.array([[0, 0, 0], [0.9, 0, 0], [0.9, 0.8, 0], [0.6, 0.5, 0.7]])
    assert float(figures(values)["backward_transfer"]) == pytest.approx(-0.3)
    assert float(figures(values)["forgetting"]) == pytest.approx(0.3)


def test_forward_transfer_counts_from_the_base_that_was_measured() -> None:
    """Others subtract a constant, or nothing: what the base can do already is no transfer."""
    values = np.array([[0.2, 0.4], [0.9, 0.4], [0.9, 0.8]])
    assert float(figures(values)["forward_transfer"]) == 0.0


def test_under_learning_shows_in_the_learning_accuracy_beside_a_positive_transfer() -> None:
    values = np.array([[0.1, 0.1], [0.2, 0.1], [0.5, 0.3]])
    told = figures(values)
    assert float(told["backward_transfer"]) > 0 and float(told["learning_accuracy"]) == pytest.approx(0.25)


def test_a_sequence_that_goes_on_is_judged_by_its_first_tasks() -> None:
    whole = np.random.default_rng(0).random((4, 3))
    part = whole[:3].copy()
    part[:2, 2] = np.nan
    assert {k: float(v) for k, v in figures(part).items()} == pytest.approx(by_definition(whole[:3, :2]))


def test_columns_may_be_some_of_the_tasks() -> None:
    whole = np.random.default_rng(1).random((4, 3))
    some = figures(whole[:, [0, 2]], learnt=[1, 3])
    assert float(some["learning_accuracy"]) == pytest.approx((whole[1, 0] + whole[3, 2]) / 2)
    assert float(some["backward_transfer"]) == pytest.approx(whole[3, 0] - whole[1, 0])
    assert float(some["forward_transfer"]) == pytest.approx(whole[2, 2] - whole[0, 2])
    assert float(some["forgetting"]) == pytest.approx(max(whole[1, 0], whole[2, 0]) - whole[3, 0])


def answers(random: np.random.Generator, n: int, share: float) -> torch.Tensor:
    return torch.tensor(random.random(n) < share, dtype=torch.float64)


def accuracies() -> Matrix:
    random = np.random.default_rng(3)
    shares = {(0, 0): 0.1, (0, 1): 0.2, (1, 0): 0.9, (1, 1): 0.2, (2, 0): 0.6, (2, 1): 0.8}
    return Matrix(("a", "b"), {at: items(answers(random, 400, share)) for at, share in shares.items()})


def test_an_interval_over_items_is_scipys_paired_bootstrap() -> None:
    matrix = accuracies()
    after, fresh = matrix.cells[2, 0].sums, matrix.cells[1, 0].sums
    theirs = bootstrap(
        (after, fresh), lambda x, y: np.mean(x - y), paired=True, vectorized=False, method="percentile", rng=0
    )
    ours = matrix.figures()["backward_transfer"]
    assert ours.mean == pytest.approx(float(np.mean(after - fresh)))
    assert ours.se == pytest.approx(float(theirs.standard_error), rel=0.1)
    assert [ours.low, ours.high] == pytest.approx(list(theirs.confidence_interval), abs=0.02)


def test_pairing_takes_the_difficulty_of_items_out() -> None:
    right = answers(np.random.default_rng(5), 300, 0.5)
    worse = right.clone()
    worse[right.nonzero()[:6]] = 0
    matrix = Matrix(("a",), {(0, 0): items(right), (1, 0): items(worse)})
    cell = matrix.cell(1, 0)
    assert cell is not None and cell.high - cell.low > 0.1
    difference = matrix.drawn[:, 1, 0] - matrix.drawn[:, 0, 0]
    assert np.ptp(np.quantile(difference, [0.025, 0.975])) < 0.04


def test_losses_weigh_tokens_and_take_documents_whole() -> None:
    total, tokens = torch.tensor([2.0, 4.0, 3.0], dtype=torch.float64), torch.tensor([1, 3, 6])
    one = items(SequenceLosses(total, tokens, torch.tensor([0, 0, 1])))
    assert one.sums.tolist() == [6.0, 3.0] and one.weights.tolist() == [4.0, 6.0]
    assert one.mean == pytest.approx(9 / 10)


def test_an_interval_is_not_known_where_a_task_has_one_item() -> None:
    cells = {(i, 0): Items(np.array([1.0]), np.array([1.0])) for i in range(2)}
    told = Matrix(("a",), cells).figures()["accuracy"]
    assert told.mean == 1.0 and math.isnan(told.low) and math.isnan(told.se)


def test_the_matrix_is_told_in_plain_values() -> None:
    told = accuracies().told()
    assert told["tasks"] == ["a", "b"] and len(told["cells"]) == 3 and set(told["figures"]) == set(FIGURES)
    assert told["cells"][2][1]["mean"] == pytest.approx(accuracies().values[2, 1])


def test_figures_of_different_items_are_refused() -> None:
    cells = {(0, 0): items(torch.zeros(3)), (1, 0): items(torch.zeros(4))}
    with pytest.raises(BadInput, match="different items of a"):
        Matrix(("a",), cells)


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.61, 0.66, 0.58]
    theirs = ttest_1samp(values, 0.0).confidence_interval(0.95)
    ours = over_seeds(values)
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high]) and ours.n == 3
    assert over_seeds([0.5]).high == math.inf
