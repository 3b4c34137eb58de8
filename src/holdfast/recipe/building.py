"""From the words of a recipe to the rules of a run, its monitor and its governor."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from holdfast._errors import BadInput
from holdfast.adapters.method import methods
from holdfast.base import Base
from holdfast.budget import Guard
from holdfast.evaluation.monitor import Monitor
from holdfast.governor import DECAYING, Governor
from holdfast.params.inventory import inventory
from holdfast.params.select import matched, parse
from holdfast.recipe.checking import WRAPPERS, settings_of
from holdfast.recipe.schema import Recipe
from holdfast.recipe.texts import Texts
from holdfast.recipe.vocabulary import pace
from holdfast.remedies.progressive import Progressive
from holdfast.rule import During, Every, Rule, Within, rules

logger = logging.getLogger(__name__)


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
    made += pace(recipe, model)
    companion = methods.traits(recipe.method.name).companion
    if companion is not None:
        made.append(companion(recipe.method.arguments))
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
