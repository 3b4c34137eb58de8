"""From the words of a recipe to the objects of a run: rules, monitor, governor and training arguments."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from holdfast._errors import BadInput
from holdfast.adapters.method import methods
from holdfast.adapters.quantised import is_quantised
from holdfast.adapters.stored import load_adapted
from holdfast.base import Base
from holdfast.budget import Guard
from holdfast.evaluation.monitor import Monitor
from holdfast.governor import DECAYING, Governor
from holdfast.params.inventory import inventory
from holdfast.params.select import matched, parse
from holdfast.recipe.schema import SCORES, WRAPPERS, EarlyStopping, Recipe, knobs_of, settings_of
from holdfast.recipe.texts import Texts
from holdfast.remedies.progressive import Progressive
from holdfast.rule import During, Every, Rule, Within, rules

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


def device(recipe: Recipe) -> torch.device:
    """Where the recipe trains; the base is measured, and writes text, on the same device."""
    return TrainingArguments(output_dir=recipe.output, use_cpu=bool(recipe.train.get("use_cpu", False))).device


def opened(recipe: Recipe, name: str | Path | None = None, *, trainable: bool = False) -> Base:
    """A model of the recipe (its base unless told), where the recipe trains and stored as its method wants it."""
    stored = loading(recipe)
    settings = {"device": device(recipe), **({"quantization": stored} if stored is not None else {})}
    return placed(recipe, load_adapted(recipe.base if name is None else name, trainable=trainable, **settings))


def placed(recipe: Recipe, base: Base) -> Base:
    """The base, moved to where the recipe trains; a quantised one was loaded there."""
    model: nn.Module = base.model
    return base if is_quantised(model) else replace(base, model=model.to(device(recipe)))  # type: ignore[arg-type]


def loading(recipe: Recipe) -> Any:
    """How the method wants the base stored, None for as it is."""
    asked = methods.traits(recipe.method.name).loading
    return None if asked is None else asked({**knobs_of(recipe.method.name), **recipe.method.arguments})


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
        args.eval_strategy, args.save_strategy = IntervalStrategy.STEPS, SaveStrategy.STEPS
        args.eval_steps = args.save_steps = early.every or max(1, count // 20)
        scored = early.metric in SCORES
        args.load_best_model_at_end, args.greater_is_better = True, scored
        args.metric_for_best_model = f"eval_{LEARNT}_{early.metric}" if scored else f"eval_{early.metric}_loss"
    return args


def _defaults(recipe: Recipe) -> dict[str, Any]:
    """What follows from the method and the schedule where the recipe does not say it."""
    traits, wanted = methods.traits(recipe.method.name), recipe.train
    found: dict[str, Any] = {"learning_rate": traits.rate * FULL_RATE}
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


def built_rules(
    recipe: Recipe, base: Base, model: nn.Module, texts: Texts, count: int, folder: Path | None = None
) -> list[Rule]:
    """The rules of a recipe in its order, then a monitor, then the governor where there is a budget to keep.

    Rules that write files do so in folders of their own below `folder`: `ewc`, `ewc-2`, …
    """
    made: list[Rule] = []
    seen = Counter[str]()
    for name, given in ((name, given) for entry in recipe.rules for name, given in entry.items()):
        seen[name] += 1
        own = name if seen[name] == 1 else f"{name}-{seen[name]}"
        made.append(_rule(name, given, base, model, texts, None if folder is None else folder / own))
    companion = methods.traits(recipe.method.name).companion
    if companion is not None:
        made.append(companion())
    guards = [
        Guard(name, text.control.rows, text.audit.documents, text.budget, text.before.get("control"))
        for name, text in texts.guarded.items()
        if recipe.keep.govern and text.budget is not None
    ]
    governed = {guard.name for guard in guards}
    made.append(_monitor(recipe, base, texts, governed, folder))
    if guards:
        made.append(Governor(guards, pad_id=base.pad_id, **governing(recipe, count)))
    return made


def governing(recipe: Recipe, count: int) -> dict[str, Any]:
    """The governor's settings: fifteen looks over the run, and the overshoot that a decaying learning rate allows."""
    settings = recipe.keep.settings
    decays = recipe.train.get("lr_scheduler_type", "linear") in ("linear", "cosine", "polynomial")
    return {
        **settings,
        "every": settings.get("every") or max(5, count // 15),
        "overshoot": settings["overshoot"] if settings.get("overshoot") is not None else DECAYING * decays,
    }


def _rule(name: str, given: Mapping[str, Any], base: Base, model: nn.Module, texts: Texts, folder: Path | None) -> Rule:
    own = settings_of(rules[name])
    wrappers = {key: given[key] for key in WRAPPERS if key in given and key not in own}
    arguments = {key: value for key, value in given.items() if key not in wrappers}
    if arguments.get("source") is not None:
        asked = arguments["source"]
        arguments["source"] = texts.source([asked] if isinstance(asked, str) else asked)
    if "pad_id" in rules.knobs(name):
        arguments["pad_id"] = base.pad_id
    if "folder" in rules.knobs(name) and folder is not None:
        arguments["folder"] = folder
    rule: Rule = rules.build(name, arguments)
    if "progressive" in wrappers:
        rule = Progressive(wrappers["progressive"], rule)
    if "within" in wrappers:
        select = parse(wrappers["within"])
        matched(select, inventory(model))
        rule = Within(select, rule)
    if "every" in wrappers:
        rule = Every(wrappers["every"], rule)
    return During(*_window(name, wrappers["during"]), rule) if "during" in wrappers else rule


def _window(name: str, given: list[Any]) -> tuple[int, int]:
    if len(given) != 2 or not all(isinstance(step, int) for step in given):
        raise BadInput(f"rule {name!r}: `during` is a pair of steps [first, last], not {given}.")
    return given[0], given[1]


def _monitor(recipe: Recipe, base: Base, texts: Texts, governed: set[str], folder: Path | None) -> Monitor:
    """What the governor looks at anyway is left to it."""
    wanted, evaluation = recipe.monitor, texts.learn[1]
    watched = {name: text for name, text in texts.guarded.items() if name not in governed}
    if not watched and (wanted.on_alarm, wanted.webhook, wanted.save) != ("log", None, "none"):
        logger.warning("All guarded texts are governed: the governor acts on them, and the monitor raises no alarm.")
    return Monitor(
        {evaluation.name: evaluation.rows},
        {name: text.control.rows for name, text in watched.items()},
        every=wanted.every,
        rows=wanted.rows,
        share=wanted.share,
        pad_id=base.pad_id,
        before={
            **({evaluation.name: texts.reference} if texts.reference is not None else {}),
            **{name: text.before["control"] for name, text in watched.items() if "control" in text.before},
        },
        margins={name: math.log1p(text.budget or wanted.alarm) for name, text in watched.items()},
        on_alarm=wanted.on_alarm,
        webhook=wanted.webhook,
        save=wanted.save,
        folder=(folder or Path(recipe.output)) / "monitor",
    )
