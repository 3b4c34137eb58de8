"""Levels from gradients: formulas against numpy, order rather than scale, faults refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast._errors import BadInput
from holdfast.llm.levels import ParameterImportance, ParameterImportanceAnalyzer

VALUES = {name: np.full((2, 3), i + 1.0) for i, name in enumerate("abcdefgh")}


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, np.ndarray.tolist])
def test_norm_and_sensitivity_are_numpys(kind: Any) -> None:
    analyzer = ParameterImportanceAnalyzer()
    gradient = np.arange(6.0).reshape(2, 3)
    analyzer.analyze_importance({"a": kind(VALUES["b"])}, {"a": kind(gradient)})
    expected = np.linalg.norm(gradient) / (np.linalg.norm(VALUES["b"]) + 1e-8)
    assert analyzer.get_sensitivity("a") == pytest.approx(expected)
    assert analyzer.gradient_norms["a"] == pytest.approx(np.linalg.norm(gradient))


@given(st.permutations(range(8)), st.floats(1e-6, 1e6))
def test_levels_follow_the_order_whatever_the_scale(order: list[int], scale: float) -> None:
    gradients = {name: scale * (i + 1) * VALUES[name] for name, i in zip(VALUES, order, strict=True)}
    found = ParameterImportanceAnalyzer().analyze_importance(VALUES, gradients)
    ranked = [found[name].value for name in sorted(VALUES, key=lambda n: order["abcdefgh".index(n)])]
    assert ranked == ["low"] * 2 + ["moderate"] * 2 + ["important"] * 2 + ["critical"] * 2


def test_a_gradient_of_zero_is_low_and_what_was_not_seen_is_not_cached() -> None:
    analyzer = ParameterImportanceAnalyzer()
    found = analyzer.analyze_importance(VALUES, {"a": 0 * VALUES["a"]})
    assert found == {"a": ParameterImportance.LOW}
    assert analyzer.get_cached_importance("a") is ParameterImportance.LOW
    assert analyzer.get_cached_importance("b") is None
    assert analyzer.get_sensitivity("b") == 0.0


@pytest.mark.parametrize(
    ("gradients", "why"),
    [
        ({"z": [1.0]}, "no parameter of that name"),
        ({"a": [1.0, 2.0]}, "shape"),
        ({"a": np.full((2, 3), np.nan)}, "nan"),
    ],
)
def test_gradients_that_fit_nothing_are_refused(gradients: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        ParameterImportanceAnalyzer().analyze_importance(VALUES, gradients)
