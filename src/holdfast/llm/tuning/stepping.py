"""The guide's steps: how fast they go, and how many batches one of them is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from peft import PeftModel
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from holdfast._errors import BadInput, TrainingStopped
from holdfast.llm.tuning.batches import learnt, read
from holdfast.llm.tuning.tuned import Tuned
from holdfast.recipe.training import FULL_RATE

LONG, ADAPTER = 10, 10.0
"""Steps for each one of the warm-up where nobody says how many there are; an adapter's rate beside that of a model."""

Maker = Callable[[list[nn.Parameter]], Optimizer]
"""A function that makes any torch optimiser of what trains: `functools.partial(torch.optim.SGD, lr=0.1)`."""


class LearningRateScheduler(LambdaLR):
    """Linear warm-up, then a cosine down to a floor; an ordinary torch scheduler.

    Step t (from 0) has the optimiser's rate times (t + 1) / `warmup_steps` in the warm-up, and after it
    max(`floor`, (1 + cos(pi p)) / 2) with p = (t - warmup_steps) / (total_steps - warmup_steps), at most 1: the guide's
    cosine would rise again behind the end. Call `step` after the optimiser's. `total_steps` is ten times the warm-up
    unless told.

    Raises BadInput for a warm-up that does not end before the last step, and for a floor outside [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 1000,
        total_steps: int | None = None,
        floor: float = 0.1,
    ):
        self.warmup_steps, self.floor = warmup_steps, floor
        self.total_steps = LONG * warmup_steps if total_steps is None else total_steps
        if not 0 <= warmup_steps < self.total_steps or not 0 <= floor <= 1:
            raise BadInput(
                f"A schedule needs 0 <= warmup_steps < total_steps and 0 <= floor <= 1, not {warmup_steps}, "
                f"{self.total_steps} and {floor}. Say `total_steps`, the optimiser steps that there will be."
            )
        super().__init__(optimizer, self.scale)

    @property
    def current_step(self) -> int:
        """Completed steps."""
        return int(self.last_epoch)

    def scale(self, step: int) -> float:
        """What the optimiser's rate is multiplied by in a step."""
        if step < self.warmup_steps:
            return min(1.0, (step + 1) / self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return max(self.floor, 0.5 * (1.0 + math.cos(math.pi * progress)))


class GradientAccumulator:
    """Steps once every `accumulation_steps` batches, with the gradient of all of them as one large batch would give it.

    Each batch counts by the tokens (or rows) that its loss is the mean of, so batches need not be alike. Without
    `optimizer`, AdamW on what trains, see `usual_optimizer`. `max_norm` clips the whole gradient, and `scheduler` steps
    after the optimiser. Batches are read as by `TrainingPipeline`.
    """

    def __init__(
        self,
        model: nn.Module,
        accumulation_steps: int = 4,
        optimizer: Optimizer | None = None,
        *,
        scheduler: Any = None,
        max_norm: float | None = None,
    ):
        if accumulation_steps < 1:
            raise BadInput(f"accumulation_steps is at least 1, not {accumulation_steps}.")
        self.model, self.accumulation_steps = model, accumulation_steps
        self.optimizer = usual_optimizer(model) if optimizer is None else optimizer
        self.scheduler, self.max_norm = scheduler, max_norm
        self.current_step, self.waiting = 0, 0
        self._items = 0.0

    def train_step(self, batch: Any) -> float:
        """Learn from one batch: its mean loss. With the last of a window the optimiser steps.

        Raises TrainingStopped for a loss that is not finite, and BadInput; the gradients that waited are dropped then.
        """
        if not self.waiting:
            self.optimizer.zero_grad()
        self.model.train()
        try:
            done = learnt(self.model, read(self.model, batch))
        except (BadInput, TrainingStopped):
            self._drop()
            raise
        (done.loss * done.items).backward()  # type: ignore[no-untyped-call]
        self._items += done.items
        self.current_step, self.waiting = self.current_step + 1, self.waiting + 1
        if self.waiting == self.accumulation_steps:
            self.flush()
        return float(done.loss.detach())

    def flush(self) -> bool:
        """Step with what waits, as at the end of the data where a window is not full; whether there was anything."""
        if not self._items:
            self._drop()
            return False
        moving = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        for parameter in moving:
            parameter.grad.div_(self._items)
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(moving, self.max_norm)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self._drop()
        return True

    def _drop(self) -> None:
        self.optimizer.zero_grad()
        self.waiting, self._items = 0, 0.0


def made_optimizer(model: nn.Module, make: Maker | None) -> Optimizer:
    """The optimiser that `make` makes of what trains, or the usual one; raises BadInput for a ready one."""
    if isinstance(make, Optimizer):
        raise BadInput(
            "This optimiser was made before the weights that are to train. Give a function of the parameters: "
            "`optimizer=functools.partial(torch.optim.AdamW, lr=1e-3)`."
        )
    return usual_optimizer(model) if make is None else make([p for p in model.parameters() if p.requires_grad])


def usual_optimizer(model: nn.Module) -> AdamW:
    """AdamW without decay on all that trains, at the rate where the model's method usually starts from.

    5e-5 for whole models, ten times that for adapters, a hundred times for prompts. Raises BadInput where nothing
    trains.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise BadInput("Nothing of this model trains. Switch `requires_grad` on, or put an adapter on it.")
    rate = FULL_RATE * (ADAPTER if isinstance(model, PeftModel) else 1.0)
    return AdamW(trained, lr=model.learning_rate if isinstance(model, Tuned) else rate, weight_decay=0.0)
