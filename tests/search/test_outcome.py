"""Which recipe is said to be best, whether it beats the given one, and what decided it."""

from __future__ import annotations

import optuna
import pytest

from holdfast.evaluation.statistics import Interval
from holdfast.search.ground import Figures
from holdfast.search.outcome import beats, chosen, importances

LIMITS = {"old": 0.02}


def interval(mean: float, spread: float = 0.1) -> Interval:
    return Interval(mean, mean - spread, mean + spread, mean + spread, spread / 2, 9)


def figures(gain: float, rise: float, spread: float = 0.003) -> Figures:
    return Figures(interval(gain), {"old": interval(rise, spread)})


def test_the_choice_goes_by_the_upper_bound_and_without_a_budget_by_the_knee() -> None:
    made = {0: figures(1.0, 0.015), 3: figures(1.5, 0.018), 4: figures(1.2, 0.016)}
    assert chosen(made, [0, 3, 4], LIMITS) == 4  # the bound of 3 is 0.021
    assert chosen(made, [0, 3, 4], {"old": 0.01}) is None
    assert chosen(made, [0, 3, 4], {}) == 4  # 0.6 + 1 / 3 of the way from the best gain and the least forgetting
    assert chosen({}, [], {}) is None


@pytest.mark.parametrize(
    ("gain", "best", "given", "limits", "told"),
    [
        (interval(0.2), 0.01, 0.02, {}, "yes"),
        (interval(0.2), 0.03, 0.02, {}, "undecided"),  # more was learnt, and more forgotten
        (interval(0.2), 0.019, 0.01, LIMITS, "yes"),  # both inside
        (interval(0.05), 0.01, 0.02, LIMITS, "undecided"),
        (interval(-0.2), 0.01, 0.02, LIMITS, "no"),
        (interval(-0.2), 0.01, 0.03, LIMITS, "inside"),
    ],
)
def test_what_beats_the_recipe_as_given(
    gain: Interval, best: float, given: float, limits: dict[str, float], told: str
) -> None:
    assert beats(gain, figures(1.0, best), figures(1.0, given), limits) == told


def test_importance_goes_to_what_decides_also_where_not_all_have_it() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.RandomSampler(0))
    for _ in range(40):
        trial = study.ask()
        rate, idle = trial.suggest_float("rate", 0.2, 5, log=True), trial.suggest_float("idle", 0, 1)
        rank = trial.suggest_int("rank", 1, 64, log=True) if idle < 0.8 else 0
        study.tell(trial, [-rate, float(rank)])
    found = importances(study, "none")
    assert found.keys() == {"gain", "forgetting", "both"} and found["gain"].keys() == {"rate", "idle", "rank"}
    assert max(found["gain"], key=lambda name: found["gain"][name]) == "rate"
    assert found["forgetting"]["rate"] < 0.2
    assert sum(found["gain"].values()) == pytest.approx(1, abs=1e-3)
    assert importances(optuna.create_study(directions=["minimize"] * 2), "none") == {}


def test_several_budgets_are_one_forgetting_in_units_of_the_tightest() -> None:
    """Above the tightest budget exactly where some budget is broken; texts without one do not count."""
    limits = {"self": 0.01, "stories": 0.18}
    for rises, broken in (((0.005, 0.10), False), ((0.011, 0.0), True), ((0.0, 0.19), True), ((0.009, 0.179), False)):
        given = {"self": interval(rises[0], 0.0), "stories": interval(rises[1], 0.0), "free": interval(9.0, 0.0)}
        assert (Figures(interval(1.0, 0.0), given, limits).forgetting > 0.01) is broken
    assert Figures(interval(1.0, 0.0), given).forgetting == 9.0
