"""The model of a recipe: loaded where it trains and stored as its method wants it, with what its method trains."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.method import methods
from holdfast.adapters.named import ASKS
from holdfast.adapters.quantised import SETTINGS, is_quantised, read_settings, stored_bytes
from holdfast.adapters.stored import CONFIG, load_adapted
from holdfast.adapters.targets import is_linear
from holdfast.adapters.wrapping import Unplanned
from holdfast.base import Base, load_config, load_tokenizer, read_tokenizer
from holdfast.params.inventory import Param, inventory
from holdfast.params.plan import from_config
from holdfast.recipe.checking import knobs_of
from holdfast.recipe.classifying import with_head
from holdfast.recipe.schema import Recipe
from holdfast.recipe.tasks import check_task, check_trained, classifying
from holdfast.recipe.texts import Texts
from holdfast.recipe.vocabulary import extended, with_rows
from holdfast.vocabulary import stored as new_rows

logger = logging.getLogger(__name__)

PASSING = {
    "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version", "auto_mapping",
    "modules_to_save", "init_lora_weights", "eva_config", "rank_pattern", "alpha_pattern", "random_seed",
    "runtime_config",
}  # fmt: skip
"""Entries of PEFT's configs that do not say what an adapter is."""


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
        return with_rows(recipe, methods.apply(recipe.method.name, brought, recipe.method.arguments, **given))
    kind = methods.traits(recipe.method.name).kind
    there = {str(getattr(one.peft_type, "value", one.peft_type)) for one in brought.peft_config.values()}
    if there != {kind}:
        raise BadInput(
            f"{recipe.base} is an adapter of the kind {', '.join(sorted(there))}, and the method "
            f"`{recipe.method.name}` makes {kind or 'none: it trains whole weights'}. Name the method that the adapter "
            "was made by, or merge the adapter into its base first."
        )
    if not methods.traits(recipe.method.name).continues:
        raise Unsupported(
            f"An adapter of `{recipe.method.name}` cannot learn on once it is saved. Begin with its base."
        )
    _same(recipe, brought)
    return with_rows(recipe, brought)


def _same(recipe: Recipe, brought: PeftModel) -> None:
    """Raise BadInput where an adapter that goes on was made with other settings than the recipe's."""
    base: Any = brought.get_base_model()
    planned = outlined(recipe, from_config(base.config), count=1)
    if not isinstance(planned, PeftModel):
        return
    asked, there = (_settings(next(iter(model.peft_config.values()))) for model in (planned, brought))
    if odd := [key for key in asked if key in there and asked[key] != there[key]]:
        told = ", ".join(f"{key} {there[key]}" for key in odd)
        raise BadInput(
            f"{recipe.base} goes on as it was made, and the method asks for other settings than its own ({told}). Say "
            "the same, or merge the adapter into its base first and begin a new one."
        )
    if not _same_storage(recipe, Path(recipe.base)):
        raise BadInput(f"{recipe.base} learnt on a base that was stored otherwise than the method says. Say the same.")


def _settings(config: Any) -> dict[str, Any]:
    """What an adapter is, of its config; how it began and where it was saved does not count."""
    told = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    return {k: v for k, v in told.items() if k not in PASSING}


def _same_storage(recipe: Recipe, folder: Path) -> bool:
    stored = loading(recipe)
    there = read_settings(folder) if (folder / SETTINGS).is_file() else None
    return bool((stored and stored.to_dict()) == (there and there.to_dict()))


def outlined(recipe: Recipe, model: PreTrainedModel, count: int) -> nn.Module:
    """A model without values, with what the method would train in `count` steps; raises what the method raises.

    A method that computes from values is left away: its settings are checked, what it adds is not known.
    """
    given = {"seed": recipe.seed, "steps": count}
    try:
        trained: nn.Module = methods.apply(recipe.method.name, model, recipe.method.arguments, **given)
    except Unplanned as error:
        logger.warning("%s", error)
        return model.requires_grad_(False)
    check_trained(recipe, trained)
    made: nn.Module = with_rows(recipe, trained)
    return made


def bare(base: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A base without values, with its new rows where it has some, and its tokenizer; raises BadInput."""
    place = Path(base)
    if not new_rows.there(place):
        return from_config(load_config(base)), load_tokenizer(base)
    model, tokenizer = from_config(load_config(new_rows.read_base(place))), read_tokenizer(place)
    new_rows.lay_stored(model, tokenizer, place)
    return model, tokenizer


def outline(recipe: Recipe, count: int = 1000) -> nn.Module:
    """The model of a recipe from its base's config alone, with what its method would train; raises what that raises."""
    model, tokenizer = bare(recipe.base)
    extended(recipe, model, tokenizer)
    headed = with_head(model, recipe.base, 0, None, recipe.seed) if classifying(recipe) else model
    check_task(recipe, model, headed)
    return outlined(recipe, headed, count)


def check_method(recipe: Recipe) -> None:
    """Raise, before any weights are loaded, what the method says of names, targets and ranks for this base."""
    if recipe.method.name in ASKS:
        raise Unsupported(f"The method `{recipe.method.name}` needs {ASKS[recipe.method.name]}, which no recipe has.")
    if not (Path(recipe.base) / CONFIG).is_file():
        outline(recipe)


def parameters(recipe: Recipe, model: nn.Module) -> list[Param]:
    """The parameters of an outlined model, with the bytes that they take as the method stores them."""
    settings, params = loading(recipe), inventory(model)
    if settings is None:
        return params
    head = model.get_output_embeddings()  # type: ignore[operator]
    whole = {f"{path}.weight" for path, module in model.named_modules() if is_linear(module) and module is not head}
    return [
        replace(p, bytes=stored_bytes(settings, p.numel)) if p.path in whole and not p.trainable else p for p in params
    ]
