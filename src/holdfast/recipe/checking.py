"""A recipe from plain values, checked: strict keys, each unknown one answered with the nearest that exists."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError
from transformers import TrainingArguments

from holdfast import adapters, remedies, strategies
from holdfast._errors import BadInput
from holdfast.adapters.lora import SAID
from holdfast.adapters.method import GIVEN as GIVEN_TO_METHODS
from holdfast.adapters.method import methods
from holdfast.data.probes import SELF
from holdfast.governor import Governor
from holdfast.recipe.arguments import check_arguments, check_types, types_of
from holdfast.recipe.faults import explained, known
from holdfast.recipe.schema import SCORES, Keep, Recipe
from holdfast.recipe.spelling import spelt_out
from holdfast.rule import rules

ROOMS = (adapters, remedies, strategies)
"""Imported for what they enter in the registries."""

OURS = {
    "output_dir": "Name the run folder at the top of the recipe: `output: runs/name`.",
    "seed": "Write `seed:` at the top of the recipe; it seeds everything.",
    "resume_from_checkpoint": "Use --resume, or `run(recipe, resume=True)`.",
}
"""Training arguments that a recipe says elsewhere."""

PLACED = {
    "governor": "Give a budget under `keep`; the governor's settings stand there too.",
    "monitor": "A monitor always looks on; its settings stand under `monitor` at the top of the recipe.",
}
"""Rules that a recipe says elsewhere."""

WRAPPERS = {"within": str, "every": int, "during": list, "progressive": int}
"""Keys that every rule takes, and their types."""

GIVEN = {"pad_id", "model", "seed", "guards", "folder", "metric", "answers"}
"""Arguments of rules that a run fills in itself, or that only a program can give."""


ELSEWHERE = {
    "dora": "{name: lora, dora: true}", "rslora": "{name: lora, rslora: true}", "pissa": "{name: lora, init: pissa}",
    "eva": "{name: lora, init: eva}", "prefix_tuning": "{name: ptuning2}", "prompt_tuning": "{name: prompt}",
    "p_tuning": "{name: ptuning}", "ln_tuning": "{name: ln}", "adapter": "{name: bottleneck}",
}  # fmt: skip
"""Methods by the names of other projects, and what a recipe says instead."""


def checked(raw: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; raises BadInput, and UnknownName for a key, rule, method or argument there is not."""
    spelt = spelt_out(raw)
    try:
        recipe = Recipe.model_validate(spelt)
    except ValidationError as error:
        raise explained(error, spelt, Recipe) from None
    known("training argument called", recipe.train, {f.name for f in dataclasses.fields(TrainingArguments)}, OURS)
    check_arguments(recipe.train)
    method = recipe.method
    if method.name in ELSEWHERE:
        raise BadInput(
            f"There is no method {method.name!r}; what goes by that name is method: {ELSEWHERE[method.name]}."
        )
    known("setting of `keep` called", recipe.keep.settings, {*Keep.model_fields, *settings_of(Governor)})
    if elsewhere := [key for key in method.arguments if key in SAID and SAID[key].strip("`") in knobs_of(method.name)]:
        raise BadInput(f"PEFT's `{elsewhere[0]}` is {SAID[elsewhere[0]]} here. Write that under `method`.")
    known(f"argument of the method {method.name!r} called", method.arguments, knobs_of(method.name))
    check_types(method.arguments, types_of(methods.hints(method.name)), "method")
    for entry in recipe.rules:
        for name, arguments in entry.items():
            _check_rule(name, arguments)
    _check_texts(recipe)
    return recipe


def settings_of(thing: Any, given: Collection[str] = GIVEN) -> dict[str, Any]:
    """What a recipe may set of a rule: its arguments and their defaults, `...` where there is none."""
    knobs = {name: p for name, p in inspect.signature(thing).parameters.items() if name not in given}
    return {name: ... if p.default is p.empty else p.default for name, p in knobs.items()}


def knobs_of(method: str) -> dict[str, Any]:
    """What a recipe may set of a method, and the defaults."""
    return settings_of(methods[method], GIVEN_TO_METHODS)


def _check_rule(name: str, arguments: Mapping[str, Any]) -> None:
    if name in PLACED:
        raise BadInput(f"{name!r} does not stand under `rules`. {PLACED[name]}")
    own = settings_of(rules[name])
    known(f"argument of rule {name!r} called", arguments, {*own, *WRAPPERS})
    for key, kind in WRAPPERS.items():
        if key in arguments and key not in own and not isinstance(arguments[key], kind):
            raise BadInput(f"rule {name!r}: `{key}` is {_FORMS[key]}, not {arguments[key]!r}.")
    if missing := [key for key, default in own.items() if default is ... and key not in arguments]:
        raise BadInput(f"The rule {name!r} needs {', '.join(f'`{key}`' for key in missing)}.")


_FORMS = {
    "within": "a selection such as `mlp`",
    "every": "a number of steps",
    "during": "a pair [first, last]",
    "progressive": "a number of steps",
}


STOPPING = ("eval_strategy", "eval_steps", "save_strategy", "save_steps", "metric_for_best_model",
            "greater_is_better", "load_best_model_at_end")  # fmt: skip
"""Training arguments that `early_stopping` settles."""


def _check_texts(recipe: Recipe) -> None:
    keep, learn = recipe.keep, recipe.learn
    if recipe.early_stopping is not None and (twice := [key for key in STOPPING if key in recipe.train]):
        raise BadInput(f"`early_stopping` settles `train.{twice[0]}`: leave that away, or write `every` and `metric`.")
    classify = learn.task == "classify"
    if not classify and (learn.labels is not None or learn.class_weights != "none"):
        raise BadInput("`learn.labels` and `learn.class_weights` are of a classifier: add `task: classify` to `learn`.")
    if recipe.early_stopping is not None:
        judged = SCORES if classify else ()
        known("text to stop by called", [recipe.early_stopping.metric], ["learnt", *judged, *keep.texts])
        if keep.govern and keep.budget is not None:
            raise BadInput(
                "Under a budget the governor stops a run: leave `early_stopping` away, or set `govern: false`."
            )
    if isinstance(keep.budget, dict):
        known("guarded text called", keep.budget, keep.texts)
    if keep.budget is not None and not keep.texts:
        raise BadInput("There is a budget but nothing to keep. Set `probe: self`, or name texts under `keep.suites`.")
    if len(set(keep.suites)) < len(keep.suites):
        raise BadInput("A text stands twice under `keep.suites`.")
    if learn.data in keep.suites or (learn.evaluation is not None and learn.evaluation in keep.suites):
        raise BadInput("A text under `keep.suites` is also learnt from; what is kept has to be other text.")
    if SELF in (learn.data, learn.evaluation):
        raise BadInput("`self` is text that the base makes up: it can be kept and replayed, not learnt.")
