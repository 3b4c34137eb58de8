"""How important each parameter is, judged from gradients that are there already, and what is known of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.params.importance import Level, levels
from holdfast.rule import State

ParameterImportance = Level


@dataclass
class ParameterInfo:
    """What is known of one parameter.

    `importance` is its level among those that got gradients in the last analysis (low before the first one);
    `last_update` is the time of its last movement (seconds since 1970; 0.0: never), `update_count` how often it moved;
    `gradient_norm` the L2 norm of its last gradient; `sensitivity` that norm over the norm of its values.
    """

    name: str
    shape: tuple[int, ...]
    importance: ParameterImportance = ParameterImportance.LOW
    frozen: bool = False
    last_update: float = 0.0
    update_count: int = 0
    gradient_norm: float = 0.0
    sensitivity: float = 0.0


@dataclass(frozen=True)
class UpdateHistory:
    """One movement of one parameter.

    `old_value`, `new_value` are the L2 norms of its values before and after and `movement` that of the difference
    (whole tensors would fill the memory); `performance_change` is the metric's change since the update before (nan
    where it is not known); `learning_rate` is what was applied.
    """

    timestamp: float
    parameter_name: str
    old_value: float
    new_value: float
    movement: float
    learning_rate: float
    performance_change: float
    strategy: str


class ParameterImportanceAnalyzer:
    """Levels from gradients: the relative sensitivity ||g|| / (||w|| + 1e-8) of each tensor, cut at its quartiles.

    The levels say how tensors stand to each other, so the same cuts fit every model; a gradient of zero is low.
    """

    def __init__(self) -> None:
        self.gradient_norms: dict[str, float] = {}
        self.sensitivities: dict[str, float] = {}
        self.importance: dict[str, ParameterImportance] = {}

    def analyze_importance(
        self, parameters: Mapping[str, Any], gradients: Mapping[str, Any]
    ) -> dict[str, ParameterImportance]:
        """The level of each parameter that has a gradient; values may be tensors, arrays or lists.

        Raises BadInput for a gradient without parameter, of another shape, or that holds what is not a finite number.
        """
        given = {name: _tensor(name, gradient) for name, gradient in gradients.items()}
        weights = {name: _fitting(name, parameters, gradient) for name, gradient in given.items()}
        self.gradient_norms = {name: _norm(gradient) for name, gradient in given.items()}
        self.sensitivities = {n: norm / (_norm(weights[n]) + 1e-8) for n, norm in self.gradient_norms.items()}
        self.importance = levels(self.sensitivities)
        return dict(self.importance)

    def state(self) -> State:
        """The last analysis."""
        return {"gradient_norms": dict(self.gradient_norms), "sensitivities": dict(self.sensitivities)}

    def restore(self, state: State) -> None:
        """Bring back what `state` gave."""
        self.gradient_norms, self.sensitivities = dict(state["gradient_norms"]), dict(state["sensitivities"])
        self.importance = levels(self.sensitivities)

    def get_cached_importance(self, name: str) -> ParameterImportance | None:
        """The level of the last analysis; None for what it did not see."""
        return self.importance.get(name)

    def get_sensitivity(self, name: str) -> float:
        """The sensitivity of the last analysis; 0.0 for what it did not see."""
        return self.sensitivities.get(name, 0.0)

    def scores(self, names: Collection[str]) -> dict[str, Tensor]:
        """Sensitivities of the last analysis in the form that rules take."""
        return {name: torch.tensor(value) for name, value in self.sensitivities.items() if name in names}


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"What was given for {name!r} is no array of numbers: {error}.") from error


def _fitting(name: str, parameters: Mapping[str, Any], gradient: Tensor) -> Tensor:
    """The parameter that a gradient belongs to."""
    if name not in parameters:
        raise BadInput(f"There is a gradient for {name!r}, but no parameter of that name.")
    parameter = _tensor(name, parameters[name])
    if gradient.shape != parameter.shape:
        shapes = f"{tuple(gradient.shape)}; the parameter has {tuple(parameter.shape)}"
        raise BadInput(f"The gradient for {name!r} has shape {shapes}.")
    if not bool(torch.isfinite(gradient).all()):
        raise BadInput(f"The gradient for {name!r} holds nan or infinity. Look for the step that made it.")
    return parameter


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))
