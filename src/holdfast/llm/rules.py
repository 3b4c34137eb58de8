"""What a configuration means: the rules that keep it, said as a recipe says them, and built."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.llm.config import FrozenConfig, UpdateStrategy
from holdfast.llm.record import Record
from holdfast.params.importance import QUANTILES
from holdfast.rule import Rule, rules
from holdfast.run import Run
from holdfast.strategies.adaptive import Adaptive
from holdfast.strategies.frozen import Frozen
from holdfast.strategies.rollback import Rollback
from holdfast.strategies.selective import Selective

START = 1e-4
"""The learning rate before any metric has said anything, where the bounds allow it."""

LOOK_BACK = 10
"""Most observations that the learning rate looks back on; with more it would turn too late."""

BEST = "best_checkpoint.pkl"
"""The name under which the best state is found; what it holds is a snapshot in safetensors, and no pickle."""

Entry = tuple[str, dict[str, Any]]


def start(config: FrozenConfig) -> float:
    """The first learning rate."""
    return min(max(START, config.min_learning_rate), config.max_learning_rate)


def strategy(config: FrozenConfig) -> list[Entry]:
    """The rule of the strategy; `adaptive` needs none beside the one that every learning rate goes through."""
    match config.strategy:
        case UpdateStrategy.FROZEN:
            return [("frozen", {})]
        case UpdateStrategy.SELECTIVE:
            return [("selective", {"threshold": max(config.importance_threshold, QUANTILES[1])})]
        case UpdateStrategy.INCREMENTAL:
            return [("incremental", {"n": config.update_frequency})]
        case UpdateStrategy.GRADUAL:
            return [("gradual", {"schedule": "exponential"})]
        case UpdateStrategy.ADAPTIVE:
            return []


def adaptive(config: FrozenConfig) -> Entry:
    """Bounds, and the factor that follows the metric; it stays 1 where the rate is not to adapt."""
    fixed = {} if config.adaptive_learning_rate else {"up": 1.0, "down": 1.0}
    bounds = {"minimum": config.min_learning_rate, "maximum": config.max_learning_rate}
    return "adaptive", {**bounds, "window": min(config.performance_window, LOOK_BACK), **fixed}


def rollback(config: FrozenConfig) -> Entry:
    """Back to the best state when the metric falls too far."""
    return "rollback", {"threshold": config.rollback_threshold, "best": BEST}


class Rules:
    """The rules of one FrozenAdaptiveLLM; `all` is the list for its run, in order."""

    def __init__(self, config: FrozenConfig, frozen: Sequence[str], record: Record, places: Mapping[str, Any]):
        direction = {"higher_is_better": config.higher_is_better}
        self.frozen, self.record = Frozen(frozen), record
        chosen: list[Rule] = [_built(entry) for entry in strategy(config)]
        self.selective = next((rule for rule in chosen if isinstance(rule, Selective)), None)
        self._frozen = [self.frozen, *(rule for rule in chosen if isinstance(rule, Frozen))]
        # Whoever steps by hand sees the metric, and says himself when to stop.
        self.rollback: Rollback = _built(rollback(config), patience=sys.maxsize, **direction, **places)
        self.adaptive: Adaptive = _built(adaptive(config), **direction)
        self.all: list[Rule] = [self.frozen, *chosen, self.rollback, self.adaptive, record]

    def still(self, run: Run) -> frozenset[str]:
        """Paths of what is frozen, by name or by the strategy."""
        return frozenset(path for rule in self._frozen for path in rule.holds(run))


def _built(entry: Entry, **more: Any) -> Any:
    name, arguments = entry
    if name == "selective":
        arguments = {**arguments, "score": None}  # chosen by the gradients of each update
    return rules.build(name, {**arguments, **more})
