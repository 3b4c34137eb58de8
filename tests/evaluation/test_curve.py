"""The fitted forgetting curve: known curves are found again, errors are honest, and the clock follows the rates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from holdfast._errors import BadInput
from holdfast.evaluation.curve import closed, exponential, fits, forgetting_curve, full_steps, power

STEPS = np.arange(10.0, 210.0, 10.0)


@pytest.mark.parametrize(
    ("name", "form", "parameters"),
    [
        ("exponential", exponential, (0.8, 60.0)),
        ("power", power, (0.02, 0.6)),
        ("exponential", exponential, (-0.3, 40.0)),
        ("closed", closed, (0.003,)),
    ],
)
def test_a_known_curve_is_found_again(name: str, form: object, parameters: tuple[float, float]) -> None:
    assert callable(form)
    best = fits(STEPS, form(STEPS, *parameters))[0]
    assert best.name == name
    assert tuple(best.parameters.values()) == pytest.approx(parameters, rel=1e-3)
    assert best.r2 == pytest.approx(1.0) and best.spread < 1e-6
    assert best.predict(400.0).mean == pytest.approx(float(form(400.0, *parameters)), rel=1e-3)


def test_a_power_law_is_the_straight_line_through_logarithms() -> None:
    rises = power(STEPS, 0.05, 0.7) * np.exp(np.random.default_rng(0).normal(0, 0.01, len(STEPS)))
    slope, intercept = np.polyfit(np.log(STEPS), np.log(rises), 1)
    found = next(fit for fit in fits(STEPS, rises) if fit.name == "power")
    assert found.parameters["exponent"] == pytest.approx(slope, abs=0.02)
    assert found.parameters["factor"] == pytest.approx(math.exp(intercept), rel=0.05)


def test_the_closed_formula_loses_the_same_share_in_each_step() -> None:
    """K (1 - r) ^ x, told as a rise: what is left of the probability of a token is exp(-rise)."""
    rises = -np.log(0.98**STEPS)
    fit = next(fit for fit in fits(STEPS, rises) if fit.name == "closed")
    assert fit.parameters["rate"] == pytest.approx(-math.log(0.98)) and fit.covariance.shape == (1, 1)
    assert np.exp(-fit(STEPS)) == pytest.approx(0.98**STEPS)


@pytest.mark.slow
def test_prediction_intervals_hold_what_comes_about_as_often_as_they_say() -> None:
    random, inside, trials = np.random.default_rng(1), 0, 200
    for _ in range(trials):
        noisy = exponential(STEPS, 0.5, 80.0) + random.normal(0, 0.02, len(STEPS))
        fit = next(fit for fit in fits(STEPS, noisy) if fit.name == "exponential")
        told = fit.predict(260.0)
        inside += told.low <= float(exponential(np.asarray(260.0), 0.5, 80.0)) + random.normal(0, 0.02) <= told.high
    assert 0.9 <= inside / trials <= 0.99


def test_what_further_training_costs_is_the_difference_of_two_places() -> None:
    random = np.random.default_rng(2)
    fit = fits(STEPS, power(STEPS, 0.02, 0.6) + random.normal(0, 0.005, len(STEPS)))[0]
    cost = fit.cost(200.0, 100.0)
    assert cost.mean == pytest.approx(float(fit(300.0) - fit(200.0)))
    assert 0 < cost.se < fit.predict(300.0).se and cost.low < cost.mean < cost.high


def test_looks_that_are_surer_count_for_more() -> None:
    rises = exponential(STEPS, 0.5, 80.0)
    rises[-1] += 1.0
    se = np.full(len(STEPS), 0.01)
    se[-1] = 10.0
    assert fits(STEPS, rises, se)[0].parameters["ceiling"] == pytest.approx(0.5, rel=0.01)


def test_too_few_looks_are_refused() -> None:
    with pytest.raises(BadInput, match="at least 5"):
        fits([10, 20, 30, 40], [0.1, 0.2, 0.3, 0.4])
    assert forgetting_curve([probe(10, 0.1), probe(20, 0.2)], "old") == []


def probe(step: int, rise: float, text: str = "old") -> dict[str, object]:
    return {"kind": "probe", "step": step, "text": text, "rise": rise, "low": rise - 0.02, "high": rise + 0.02}


def test_full_steps_sum_the_rates() -> None:
    decaying = [{"kind": "train", "step": s, "learning_rate": 1e-3 * (100 - s) / 100} for s in range(0, 101, 10)]
    clock = full_steps(decaying)
    assert clock(100) == pytest.approx(sum((100 - s) / 100 for s in range(1, 101)))
    assert clock(50) == pytest.approx(sum((100 - s) / 100 for s in range(1, 51)))
    assert full_steps([])(37) == 37


def test_the_curve_of_a_log_is_over_full_steps_and_of_one_text() -> None:
    rates = [{"kind": "train", "step": s, "learning_rate": 2e-3 if s <= 50 else 1e-3} for s in range(1, 101)]
    clock = full_steps(rates)
    looks = [probe(s, float(exponential(np.asarray(clock(s)), 0.4, 30.0))) for s in range(10, 101, 10)]
    other = [probe(s, 5.0, "other") for s in range(10, 101, 10)]
    best = forgetting_curve([*rates, *looks, *other], "old")[0]
    assert best.name == "exponential" and best.parameters["scale"] == pytest.approx(30.0, rel=1e-3)
