"""One run of one candidate: trained for some steps without governor and monitor, then measured on what was kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from holdfast._errors import TrainingStopped
from holdfast.adapters.method import methods
from holdfast.data.rows import collate
from holdfast.evaluation.monitor import Monitor
from holdfast.recipe.building import built_rules
from holdfast.recipe.loading import load
from holdfast.recipe.model import opened
from holdfast.recipe.training import training_arguments
from holdfast.search.ground import Ground, Losses
from holdfast.training import Trainer

Progress = Callable[[Mapping[str, Any]], None]


class OutOfTime(Exception):
    """The search's time is up; the run was stopped at its next step and is to be done again."""


@dataclass(frozen=True)
class Outcome:
    """What a run of `steps` steps cost, and its losses: `choosing`, and, where it was asked for, `judging`.

    `seconds` are those of training alone, `bytes` the values that trained.
    """

    steps: int
    seconds: float
    bytes: int
    choosing: Losses
    judging: Losses | None


def carried_out(
    ground: Ground,
    values: Mapping[str, Any],
    folder: Path,
    *,
    judged: bool,
    deadline: float,
    say: Progress,
) -> Outcome:
    """Train a shortened recipe (see `shortened`) in a folder that is taken away again, and measure the model.

    `deadline` is a time of `time.monotonic`. Raises OutOfTime at the first step after it, KeyboardInterrupt where a
    signal came, TrainingStopped for a loss that is not finite, and whatever building the recipe raises.
    """
    with _scratch(folder):
        trainer = _trainer(ground, values, folder, deadline, say)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        run = trainer.run
        assert run is not None
        if trainer.interrupted:
            raise KeyboardInterrupt
        if run.stopped == OUT_OF_TIME:
            raise OutOfTime
        if run.stopped:
            raise TrainingStopped(run.stopped)
        size = sum(p.numel() * p.element_size() for name, p in run.tensors.items() if name not in run.held)
        model: nn.Module = trainer.model
        choosing = ground.measured(model, ground.choosing)
        judging = ground.measured(model, ground.judging) if judged else None
        return Outcome(run.step, seconds, size, choosing, judging)


OUT_OF_TIME = "the time of the search is up"


@contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """A folder for what training and rules write, which nobody needs afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trainer(ground: Ground, values: Mapping[str, Any], folder: Path, deadline: float, say: Progress) -> Trainer:
    recipe = load({**values, "output": str(folder)})
    rows, evaluation = ground.texts.learn
    args: TrainingArguments = training_arguments(recipe, len(rows), folder)
    steps = int(args.max_steps)
    base = opened(recipe)
    set_seed(recipe.seed)
    given = {"seed": recipe.seed, "steps": steps, "rows": rows, "tokenizer": base.tokenizer}
    model = methods.apply(recipe.method.name, base.model, recipe.method.arguments, **given)
    rules = built_rules(recipe, base, model, ground.texts, steps, folder)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=evaluation.rows,
        data_collator=partial(collate, pad_id=base.pad_id),
        processing_class=base.tokenizer,
        rules=[rule for rule in rules if not isinstance(rule, Monitor)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Clock(trainer, steps, deadline, say))
    return trainer


class _Clock(TrainerCallback):
    """Tells of each step, and stops the run when the time is up."""

    def __init__(self, trainer: Trainer, steps: int, deadline: float, say: Progress):
        self.trainer, self.steps, self.deadline, self.say = trainer, steps, deadline, say

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.say({"kind": "step", "step": state.global_step, "of": self.steps})
        if time.monotonic() > self.deadline and state.global_step < self.steps and self.trainer.run is not None:
            self.trainer.run.stop(OUT_OF_TIME)
            control.should_training_stop = True
