"""The guide's scores, worked by hand."""

from __future__ import annotations

import pytest

from holdfast.evaluation.balance import Balance

OLD = {"reading": (0.8, 0.6), "facts": (0.9, 0.99)}
NEW = {"plays": (0.4, 0.6), "law": (0.0, 0.5)}


def test_rates_and_scores_by_hand() -> None:
    found = Balance().scores(OLD, NEW)
    assert found["task_forgetting_rates"] == pytest.approx({"reading": 0.25, "facts": 0.0})
    assert found["signed_task_forgetting_rates"] == pytest.approx({"reading": 0.25, "facts": -0.1})
    assert found["avg_forgetting_rate"] == pytest.approx(0.125)
    assert found["signed_avg_forgetting_rate"] == pytest.approx(0.075)
    assert found["overall_forgetting"] == pytest.approx((1.7 - 1.59) / 1.7)
    assert found["task_improvement_rates"] == pytest.approx({"plays": 0.5, "law": 0.5})
    assert found["overall_improvement"] == pytest.approx((1.1 - 0.4) / 0.4)
    kept, score = 1.59 / 1.7, (0.795 + 0.55) / 2
    assert found["balance_score"] == pytest.approx(0.6 * kept + 0.4)
    assert found["overall_score"] == pytest.approx(score)
    assert found["stability_efficiency_score"] == pytest.approx(score * (0.6 * kept + 0.4))
    assert found["is_successful"] is True
    assert (found["high_forgetting_tasks"], found["significant_improvement_count"]) == ([], 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a": (1.0, 0.79)}, {"b": (0.5, 0.9)}),
        ({"a": (1.0, 0.9)}, {"b": (0.5, 0.54)}),
        ({"a": (0.7, 0.69)}, {"b": (0.5, 0.9)}),
    ],
)
def test_success_needs_all_three(old: dict[str, tuple[float, float]], new: dict[str, tuple[float, float]]) -> None:
    assert Balance().scores({"a": (0.9, 0.85)}, {"b": (0.5, 0.9)})["is_successful"] is True
    assert Balance().scores(old, new)["is_successful"] is False


def test_getting_better_at_the_old_is_no_forgetting_and_keeps_its_sign() -> None:
    found = Balance().scores({"a": (0.5, 0.6)}, {})
    assert (found["overall_forgetting"], found["forgetting_score"]) == (0.0, 1.0)
    assert found["signed_overall_forgetting"] == pytest.approx(-0.2)
    assert found["avg_domain_score"] == found["overall_improvement"] == 0


def test_weights_count_for_means_and_sums() -> None:
    found = Balance(weights={"reading": 3.0}).scores(OLD, {})
    assert found["avg_forgetting_rate"] == pytest.approx(3 * 0.25 / 4)
    assert found["overall_forgetting"] == pytest.approx((3.3 - 2.79) / 3.3)
    assert found["avg_reference_score"] == pytest.approx(2.79 / 4)


def test_half_of_a_small_gain_counts_above_one_half() -> None:
    found = Balance().scores({"a": (0.8, 0.8)}, {"b": (0.5, 0.6)})
    assert found["improvement_score"] == pytest.approx(0.6)
    assert found["balance_score"] == pytest.approx(0.6 + 0.4 * 0.6)


def test_nothing_forgotten_of_nothing() -> None:
    found = Balance().scores({"a": (0.0, 0.0)}, {"b": (0.0, 0.0)})
    assert found["overall_forgetting"] == found["overall_improvement"] == 0.0
