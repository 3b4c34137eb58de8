"""The range test finds the rate at which a loss falls fastest, and sees what is forgotten on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from holdfast._errors import BadInput
from holdfast.evaluation.report import rates_picture
from holdfast.recipe.rates import HIGHEST, LOWEST, Rates, _found, _inside, _Smooth, find_rates, rates_told
from tests.recipe.small import recipe


def test_the_steepest_fall_is_found_and_what_comes_after_the_least_loss_is_left_out() -> None:
    rates = np.logspace(-6, 0, 61)
    losses = -2 / (1 + np.exp(-4 * (np.log10(rates) + 3))) + 5 * np.clip(np.log10(rates) + 1, 0, None) ** 2
    found = _found(list(zip(rates, losses, strict=True)), {"old": [(1e-4, 0.0), (1e-2, 0.5), (1e-1, float("nan"))]})
    assert found.steepest == pytest.approx(1e-3, rel=0.3)
    assert found.lowest == pytest.approx(rates[losses.argmin()]) and found.forgets == 1e-2
    assert any("hold it back" in line for line in rates_told(found.told()))


def test_the_running_mean_has_no_bias_at_the_start() -> None:
    smooth = _Smooth()
    assert [smooth(2.0) for _ in range(5)] == pytest.approx([2.0] * 5)


def test_a_loss_that_never_falls_is_said() -> None:
    with pytest.raises(BadInput, match="never fell"):
        _found([(10**-i, float(6 - i) / 6) for i in range(6, 0, -1)], {})


@pytest.mark.slow
def test_a_recipe_gets_a_rate_a_picture_and_keeps_nothing(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "method.name=lora", "keep.budget=null")
    lines: list[object] = []
    found = find_rates(asked, count=24, progress=lines.append)
    assert isinstance(found, Rates) and LOWEST < found.suggested <= found.lowest <= HIGHEST
    assert found.learnt[0][0] == LOWEST and len(lines) > 10
    assert all(len(pairs) > 5 and abs(pairs[0][1]) < 1e-3 for pairs in found.kept.values())
    again = find_rates(asked, count=24)
    assert again.told() == found.told()
    picture = rates_picture(found.told(), tmp_path / "rates.png")
    assert picture.stat().st_size > 10_000 and not Path(asked.output).exists()
    with pytest.raises(BadInput, match="at least 10"):
        find_rates(asked, count=3)


def test_the_rate_that_keeps_the_budgets_is_the_last_before_any_is_left() -> None:
    rises = {"a": [(1e-4, 0.0), (1e-3, 0.01), (1e-2, 0.5)], "b": [(1e-4, 0.0), (1e-3, 0.2), (1e-2, 0.0)]}
    assert _inside(rises, {"a": 0.02}) == 1e-3
    assert _inside(rises, {"a": 0.02, "b": 0.1}) == 1e-4
    assert _inside(rises, {}) is None and _inside(rises, {"b": -1.0}) is None
