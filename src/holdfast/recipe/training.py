"""Hugging Face's training arguments, as a recipe says them and its method and schedule complete them."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from holdfast._errors import BadInput
from holdfast.adapters.method import methods
from holdfast.recipe.schema import SCORES, EarlyStopping, Recipe

logger = logging.getLogger(__name__)

FULL_RATE = 5e-5
"""The learning rate of full fine-tuning where a recipe names none, which is Hugging Face's; methods multiply it."""

FLOORED = ("cosine_with_min_lr", "cosine_warmup_with_min_lr")
FLOOR = 0.1
"""Schedules that end above zero, and at which share of the learning rate unless a recipe says so."""

LEARNT = "learnt"
"""What the text that measures the learning is called where several are looked at."""

SHORT = 500
"""Runs of fewer steps write no checkpoints unless asked (or interrupted); others as often as Hugging Face does."""


def learning_rate(recipe: Recipe) -> float:
    """The recipe's own, or else the method's multiple of full fine-tuning's."""
    told = recipe.train.get("learning_rate")
    return FULL_RATE * methods.traits(recipe.method.name).rate if told is None else float(told)


def training_arguments(recipe: Recipe, rows: int, folder: Path) -> TrainingArguments:
    """Hugging Face's arguments and defaults, with our own logging; raises BadInput for values that they refuse."""
    ours: dict[str, Any] = {
        "logging_steps": 10,
        "save_total_limit": 2,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **_defaults(recipe),
    }
    try:
        args = TrainingArguments(output_dir=str(folder), seed=recipe.seed, **{**ours, **recipe.train})
        count = steps(args, rows)
    except (ValueError, TypeError, ImportError) as error:
        raise BadInput(f"The recipe's `train` cannot be used: {error}") from error
    if not {"save_strategy", "save_steps"} & set(recipe.train) and count < SHORT:
        args.save_strategy = SaveStrategy.NO
    if args.activation_checkpointing and not methods.traits(recipe.method.name).checkpointing:
        args.activation_checkpointing = args.gradient_checkpointing = False
        logger.warning("%s and gradient checkpointing exclude each other; checkpointing is off.", recipe.method.name)
    return _best_kept(args, recipe.early_stopping, count)


def _best_kept(args: TrainingArguments, early: EarlyStopping | None, count: int) -> TrainingArguments:
    """The arguments by which the Trainer looks at a metric, keeps a checkpoint at each look, and ends with the best."""
    if early is not None:
        args.restore_callback_states_from_checkpoint = True  # patience goes on where it was
        args.eval_strategy, args.save_strategy = IntervalStrategy.STEPS, SaveStrategy.STEPS
        args.eval_steps = args.save_steps = early.every or max(1, count // 20)
        scored = early.metric in SCORES
        args.load_best_model_at_end, args.greater_is_better = True, scored
        args.metric_for_best_model = f"eval_{LEARNT}_{early.metric}" if scored else f"eval_{early.metric}_loss"
    return args


def _defaults(recipe: Recipe) -> dict[str, Any]:
    """What follows from the method and the schedule where the recipe does not say it."""
    wanted = recipe.train
    found: dict[str, Any] = {"learning_rate": learning_rate(recipe)}
    if wanted.get("lr_scheduler_type") in FLOORED:
        found["lr_scheduler_kwargs"] = {"min_lr_rate": FLOOR}
    return found


def steps(args: TrainingArguments, rows: int) -> int:
    """How many optimiser steps the Trainer will make of so many rows."""
    if args.max_steps > 0:
        return int(args.max_steps)
    batches = math.ceil(rows / (args.train_batch_size * args.world_size))
    in_epoch: int = math.ceil(batches / args.gradient_accumulation_steps)
    return math.ceil(args.num_train_epochs * in_epoch)
