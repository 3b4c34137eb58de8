"""A run that is stepped by hand: gradients and a metric go in, what moved comes out; no locks, paths only."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.llm.config import FrozenConfig, UpdateStrategy
from holdfast.llm.levels import ParameterImportance, ParameterInfo
from holdfast.llm.record import Record
from holdfast.llm.rules import Rules, start
from holdfast.params.inventory import Param
from holdfast.params.weights import copied, local
from holdfast.run import Run

logger = logging.getLogger(__name__)

MakeOptimizer = Callable[[list[nn.Parameter], float], Optimizer]


class Session:
    """One run of a model with the rules of a configuration; `trainable` is what may move where nothing is frozen."""

    def __init__(
        self,
        model: nn.Module,
        params: list[Param],
        trainable: Mapping[str, nn.Parameter],
        config: FrozenConfig,
        optimizer: MakeOptimizer,
        places: Mapping[str, Any],
    ):
        self.model, self.params, self.trainable, self.config = model, params, trainable, config
        self.record = Record(config.history_size, config.performance_window, config.strategy.value)
        self._optimizer, self._places = optimizer, places

    def begin(self, frozen: Iterable[str]) -> None:
        """Begin a run in which these paths do not move."""
        for p in self.trainable.values():
            p.requires_grad_(True)
        self.rules = Rules(self.config, list(frozen), self.record, self._places)
        optimizer = self._optimizer(list(self.trainable.values()), start(self.config))
        self.run = Run(self.model, optimizer, self.rules.all)
        self.run.begin()

    def freeze(self, paths: Iterable[str], frozen: bool) -> None:
        """Freeze or thaw; what could not move before anything was frozen stays as it is."""
        change = self.rules.frozen.freeze if frozen else self.rules.frozen.thaw
        change([path for path in paths if path in self.trainable])
        self.flag()

    def flag(self) -> None:
        """Let `requires_grad` say what is frozen, whatever another session on the same model said of it.

        What `selective` holds for now goes on to need gradients: next time it may be more important.
        """
        self.run.hold()
        still = self.still
        for path, p in self.trainable.items():
            p.requires_grad_(path not in still)

    @property
    def still(self) -> frozenset[str]:
        """Paths of what is frozen, by name or by the strategy."""
        return self.rules.still(self.run)

    def analyzed(self, gradients: Mapping[str, Any]) -> dict[str, ParameterImportance]:
        """The level of each parameter among these gradients."""
        values = {path: local(self.model.get_parameter(path)) for path in gradients}
        return self.record.analyzer.analyze_importance(values, gradients)

    def update(self, gradients: Mapping[str, Any], metric: float | None) -> dict[str, Tensor]:
        """Observe the metric, and make one step unless it brought the best state back; new values of what moved."""
        self.analyzed(gradients)
        if self._brought_back(metric):
            return {}
        if self.rules.selective is not None:
            scores = self.record.analyzer.scores(gradients.keys() - self.still)
            self.rules.selective.choose(scores)
        self.run.advance(gradients={path: g for path, g in gradients.items() if path in self.trainable})
        self.flag()
        for path in gradients:
            if path not in self.record.moved:
                logger.debug("update %d: %s did not move: %s", self.run.step, path, self._why(path))
        return copied({path: self.trainable[path] for path in gradients if path in self.record.moved})

    def info(self) -> dict[str, ParameterInfo]:
        """What is known of each parameter."""
        seen, record, still = self.record.analyzer, self.record, self.still
        return {
            p.path: ParameterInfo(
                name=p.path,
                shape=p.shape,
                importance=seen.get_cached_importance(p.path) or ParameterImportance.LOW,
                frozen=p.path in still or p.path not in self.trainable,
                last_update=record.times.get(p.path, 0.0),
                update_count=record.counts.get(p.path, 0),
                gradient_norm=seen.gradient_norms.get(p.path, 0.0),
                sensitivity=seen.get_sensitivity(p.path),
            )
            for p in self.params
        }

    @property
    def learning_rate(self) -> float:
        """What was applied last, or will be first."""
        applied = self.rules.adaptive.learning_rate
        return start(self.config) if math.isnan(applied) else applied

    def next_moves(self, path: str, importance: ParameterImportance | None) -> bool:
        """Whether the coming update would move a parameter, given a gradient for it."""
        if path in self.still or path not in self.trainable:
            return False
        if self.config.strategy is UpdateStrategy.INCREMENTAL:
            return (self.run.step + 1) % self.config.update_frequency == 0
        if self.config.strategy is UpdateStrategy.SELECTIVE and importance is not None:
            return importance in (ParameterImportance.CRITICAL, ParameterImportance.IMPORTANT)
        return path not in self.run.held

    def _brought_back(self, metric: float | None) -> bool:
        """Let the rules see the metric; whether it fell so far that the best state was brought back."""
        if metric is None:
            self.record.observe(None)
            return False
        self.rules.adaptive.observe(float(metric))
        self.record.observe(float(metric))
        choices = self.rules.frozen.state()
        back = self.rules.rollback.observe(self.run, float(metric))
        if back:  # what is frozen is the caller's choice, and no part of how good the model is
            self.rules.frozen.restore(self.run, None, choices)
            logger.warning(self.run.journal[-1]["text"])
        return back

    def _why(self, path: str) -> str:
        if path not in self.trainable:
            return "it does not require a gradient"
        if path in self.still:
            return "it is frozen"
        if path in self.run.held:
            return "others that may move are more important"
        if self.record.analyzer.gradient_norms[path] == 0:
            return "its gradient is zero"
        if self.config.strategy is UpdateStrategy.INCREMENTAL:
            return f"movements wait for every {self.config.update_frequency}th update"
        return "the step is smaller than what its numbers can tell apart"
