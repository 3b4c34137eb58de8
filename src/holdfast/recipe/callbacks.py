"""What a run's Trainer is told by callbacks: each step for the display, and when a text has got no better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from holdfast.recipe.schema import Recipe
from holdfast.training import Trainer

Progress = Callable[[Mapping[str, Any]], None]
"""Is told what goes on: {"kind": "stage", "text"}, {"kind": "step", "step", "of"}, and each line of the journal."""


class Steps(TrainerCallback):
    """Tells the progress display of each step."""

    def __init__(self, say: Progress, count: int):
        self.say, self.count = say, count

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.say({"kind": "step", "step": state.global_step, "of": self.count})


class Early(EarlyStoppingCallback):
    """The library's, which is asked once for each text and looks at the one that it stops by."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:  # type: ignore[override]
        if args.metric_for_best_model in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)  # type: ignore[no-untyped-call]


def stopped_early(recipe: Recipe, trainer: Trainer) -> str | None:
    """What early stopping decided, in words; None where all steps were made."""
    early, state = recipe.early_stopping, trainer.state
    if early is None or trainer.interrupted or state.global_step >= state.max_steps:
        return None
    best = Path(str(state.best_model_checkpoint)).name.rpartition("-")[2]
    return (
        f"{early.metric} got no better for {early.patience} looks, so training ended after step {state.global_step} of "
        f"{state.max_steps}; what is left are the weights of step {best}."
    )
