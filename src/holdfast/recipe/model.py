"""The model of a recipe: loaded where it trains and stored as its method wants it, with what its method trains."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import TrainingArguments

from holdfast._errors import BadInput
from holdfast.adapters.method import methods
from holdfast.adapters.quantised import is_quantised
from holdfast.adapters.stored import load_adapted
from holdfast.base import Base
from holdfast.recipe.checking import knobs_of
from holdfast.recipe.classifying import with_head
from holdfast.recipe.schema import Recipe
from holdfast.recipe.tasks import check_task, classifying
from holdfast.recipe.texts import Texts

logger = logging.getLogger(__name__)


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


def for_task(recipe: Recipe, base: Base, texts: Texts) -> Any:
    """The base as the recipe's task needs it, with a head where it classifies; raises what it cannot be asked for."""
    found: Any = base.model
    if classifying(recipe):
        found = with_head(base.model, base.name, base.pad_id, texts.classes, recipe.seed)
    check_task(recipe, base.model, found)
    return found


def trainable(recipe: Recipe, base: Base, texts: Texts, brought: Any, count: int) -> Any:
    """What `for_task` brought, with what the method trains; a base that brings an adapter goes on with that one."""
    if not isinstance(brought, PeftModel):
        given = {"seed": recipe.seed, "steps": count, "rows": texts.learn[0], "tokenizer": base.tokenizer}
        return methods.apply(recipe.method.name, brought, recipe.method.arguments, **given)
    kind = methods.traits(recipe.method.name).kind
    there = {str(getattr(one.peft_type, "value", one.peft_type)) for one in brought.peft_config.values()}
    if there != {kind}:
        raise BadInput(
            f"{recipe.base} is an adapter of the kind {', '.join(sorted(there))}, and the method "
            f"`{recipe.method.name}` makes {kind or 'none: it trains whole weights'}. Name the method that the adapter "
            "was made by, or merge the adapter into its base first."
        )
    logger.info("%s goes on as it was made; other settings of the method than its own do not count.", recipe.base)
    return brought
