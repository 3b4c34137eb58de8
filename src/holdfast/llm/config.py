"""How a model may be updated: the strategies by name, their settings with checks, presets, and the file they go to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput, UnknownName


class UpdateStrategy(Enum):
    """How parameters may move."""

    FROZEN = "frozen"
    ADAPTIVE = "adaptive"
    SELECTIVE = "selective"
    INCREMENTAL = "incremental"
    GRADUAL = "gradual"


OPTIMIZERS = ("sgd", "adamw")
"""What turns a gradient into a step."""


@dataclass
class FrozenConfig:
    """Settings of a FrozenAdaptiveLLM.

    `frozen_layers`, `frozen_parameters`: what is frozen from the start (`FrozenAdaptiveLLM.freeze_layers` says which
    names there are). `adaptive_learning_rate`: whether the learning rate follows the metric; without it the rate stays
    at 1e-4, or at the nearest bound. `min_learning_rate`, `max_learning_rate`: its bounds, always kept.
    `importance_threshold`: `selective` moves what is critical or important and has at least this rank, in [0, 1], among
    what may move. `update_frequency`: n, where `incremental` moves in every n-th update. `performance_window`:
    observations that the statistics look back on, and the learning rate on the last ten of them. `rollback_threshold`:
    a fall of the metric below its best by more than this brings the best weights back (absolute for a score, relative
    to the best for a loss; inf: never). `history_size`: most movements that are remembered. `higher_is_better`: False
    for a loss. `optimizer`: `sgd`, where a step is exactly p - lr * g, or `adamw`, with torch's defaults.

    Raises UnknownName for a strategy or optimiser there is not, BadInput for values that cannot be.
    """

    strategy: UpdateStrategy = UpdateStrategy.ADAPTIVE
    frozen_layers: list[str] = field(default_factory=list)
    frozen_parameters: list[str] = field(default_factory=list)
    adaptive_learning_rate: bool = True
    min_learning_rate: float = 1e-6
    max_learning_rate: float = 1e-3
    importance_threshold: float = 0.1
    update_frequency: int = 100
    performance_window: int = 50
    rollback_threshold: float = 0.05
    history_size: int = 1000
    higher_is_better: bool = True
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        self.strategy = _strategy(self.strategy)
        self.frozen_layers = _names("frozen_layers", self.frozen_layers)
        self.frozen_parameters = _names("frozen_parameters", self.frozen_parameters)
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", str(self.optimizer), OPTIMIZERS)
        if not 0 < self.min_learning_rate <= self.max_learning_rate < math.inf:
            raise BadInput(
                f"Learning rates need 0 < min_learning_rate <= max_learning_rate, not {self.min_learning_rate} and "
                f"{self.max_learning_rate}."
            )
        if not 0 <= self.importance_threshold <= 1:
            raise BadInput(f"importance_threshold is a rank from 0 to 1, not {self.importance_threshold}.")
        if not self.rollback_threshold > 0:
            raise BadInput(f"rollback_threshold is a share above 0 (inf: never), not {self.rollback_threshold}.")
        for name, least in (("update_frequency", 1), ("performance_window", 3), ("history_size", 1)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise BadInput(f"{name} is a whole number of at least {least}, not {getattr(self, name)!r}.")

    def as_json(self) -> dict[str, Any]:
        """Plain values, the strategy by its name."""
        return {**asdict(self), "strategy": self.strategy.value}


def create_frozen_config(
    strategy: str | UpdateStrategy = "adaptive",
    frozen_layers: Sequence[str] | None = None,
    frozen_parameters: Sequence[str] | None = None,
    **kwargs: Any,
) -> FrozenConfig:
    """A FrozenConfig from names; further arguments are its fields. Raises UnknownName for a field it does not have.

    >>> create_frozen_config("selective", ["embedding"], importance_threshold=0.2).strategy.value
    'selective'
    """
    known = [f.name for f in fields(FrozenConfig)]
    for name in kwargs:
        if name not in known:
            raise UnknownName("setting of a FrozenConfig called", name, known)
    return FrozenConfig(_strategy(strategy), list(frozen_layers or ()), list(frozen_parameters or ()), **kwargs)


def load_frozen_config(file: str | Path) -> FrozenConfig:
    """The configuration that `FrozenAdaptiveLLM.export_config` wrote, equal to the one it had; raises BadInput."""
    try:
        given = json.loads(Path(file).read_text("utf-8"))["frozen_config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is not an exported configuration ({error}). `export_config` writes one.") from error
    if not isinstance(given, Mapping):
        raise BadInput(f"{file} is not an exported configuration: its `frozen_config` is not a mapping of settings.")
    return create_frozen_config(**given)


def get_preset_configs() -> dict[str, FrozenConfig]:
    """The presets, made anew: conservative, aggressive, balanced, frozen."""
    return {
        "conservative": FrozenConfig(
            UpdateStrategy.SELECTIVE,
            frozen_layers=["embedding", "encoder"],
            max_learning_rate=1e-4,
            importance_threshold=0.2,
        ),
        "aggressive": FrozenConfig(UpdateStrategy.ADAPTIVE, min_learning_rate=1e-5, importance_threshold=0.05),
        "balanced": FrozenConfig(UpdateStrategy.GRADUAL, frozen_layers=["embedding"]),
        "frozen": FrozenConfig(
            UpdateStrategy.FROZEN, frozen_layers=["embedding", "encoder", "decoder"], adaptive_learning_rate=False
        ),
    }


def _strategy(given: str | UpdateStrategy) -> UpdateStrategy:
    if isinstance(given, UpdateStrategy):
        return given
    known = [strategy.value for strategy in UpdateStrategy]
    if given not in known:
        raise UnknownName("update strategy", str(given), known)
    return UpdateStrategy(given)


def _names(field: str, given: Any) -> list[str]:
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise BadInput(f"{field} is a list of names, such as [{given!r}].")
    return list(given)
