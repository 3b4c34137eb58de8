"""A learning rate that follows a metric, without a model: the rule `adaptive` by itself."""

from __future__ import annotations

from holdfast._errors import BadInput
from holdfast.llm.rules import LOOK_BACK, START
from holdfast.strategies.adaptive import Adaptive


class AdaptiveLearningRate:
    """`update` takes one value of the metric and returns the learning rate, up when the metric gets better.

    It has turned within `window` values after a change of trend, and always lies in [min_lr, max_lr].

    >>> rate = AdaptiveLearningRate(initial_lr=1e-4)
    >>> rising = [rate.update(score) for score in (0.5, 0.6, 0.7, 0.8)]
    >>> 1e-4 == rising[0] < rising[-1] == rate.get_lr()
    True
    """

    def __init__(
        self,
        initial_lr: float = START,
        min_lr: float = 1e-6,
        max_lr: float = 1e-3,
        *,
        higher_is_better: bool = True,
        window: int = LOOK_BACK,
    ):
        if not 0 < min_lr <= initial_lr <= max_lr:
            raise BadInput(f"Learning rates need 0 < min_lr <= initial_lr <= max_lr: {min_lr}, {initial_lr}, {max_lr}.")
        self.initial_lr, self.min_lr, self.max_lr = initial_lr, min_lr, max_lr
        self._settings = {"higher_is_better": higher_is_better, "window": window}
        self.reset()

    def update(self, performance_metric: float) -> float:
        """Take one value of the metric; raises BadInput where it is not finite."""
        self._rule.observe(performance_metric)
        factor = self._rule.factor
        self._rule.factor = min(max(factor, self.min_lr / self.initial_lr), self.max_lr / self.initial_lr)
        return self.get_lr()

    def get_lr(self) -> float:
        """The present learning rate."""
        return min(max(self.initial_lr * self._rule.factor, self.min_lr), self.max_lr)

    def reset(self) -> None:
        """Back to the first learning rate, with nothing observed."""
        self._rule = Adaptive(self.min_lr, self.max_lr, **self._settings)  # type: ignore[arg-type]
