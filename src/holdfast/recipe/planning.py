"""The plan of a recipe: what would train, on how much, and what it costs; no weights are loaded, nothing is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from torch import nn

from holdfast.adapters.method import methods
from holdfast.base import Base, load_config, load_tokenizer
from holdfast.budget import Guard
from holdfast.data.probes import CHAT, SELF, SOUND
from holdfast.governor import Governor
from holdfast.params import plan as freezing
from holdfast.params.select import Select, parse
from holdfast.recipe.building import LOOKS, steps, training_arguments
from holdfast.recipe.schema import Recipe, settings_of
from holdfast.recipe.texts import Guarded, Texts
from holdfast.remedies.replay import Replay
from holdfast.remedies.schedules import average


@dataclass(frozen=True)
class Plan:
    """What a run would do. `rows` are there to learn from; `learnt`, `replayed` and `sampled` count tokens.

    `looks` maps each reason to look at a text to the number of rows that the model reads for it, without gradient.
    """

    recipe: Recipe
    freeze: freezing.Plan
    rows: int
    steps: int
    batch: int
    learnt: int
    replayed: int
    sampled: int
    looks: Mapping[str, int]


def plan(recipe: Recipe) -> Plan:
    """The plan of a recipe, from config, tokenizer and data alone; raises what `run` would raise before training."""
    model = freezing.from_config(load_config(recipe.base))
    texts = Texts(recipe, Base(model, load_tokenizer(recipe.base), recipe.base, ""))
    trained = methods.build(recipe.method.name, {"model": model, "seed": recipe.seed, **recipe.method.arguments})
    rows = len(texts.learn[0])
    args = training_arguments(recipe, rows, Path(recipe.output))
    count, batch = steps(args, rows), args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    shares = [given.get("share", settings_of(Replay)["share"]) for name, given in _rules(recipe) if name == "replay"]
    rows_in_all = math.prod(1 + average(share, count) for share in shares)
    length = recipe.learn.length
    return Plan(
        recipe=recipe,
        freeze=freezing.plan(cast(nn.Module, trained), _frozen(recipe)),
        rows=rows,
        steps=count,
        batch=batch,
        learnt=count * batch * length,
        replayed=round(count * batch * length * (rows_in_all - 1)),
        sampled=_sampled(recipe) * length,
        looks=_looks(recipe, texts, count),
    )


def render_run_plan(plan: Plan, console: Console) -> None:
    """Print a plan: what trains and its memory, then steps, tokens and looks."""
    freezing.render_plan(plan.freeze, console)
    table = Table(title="The run", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for what, figure in (
        ("rows to learn from", plan.rows),
        ("rows in a step", plan.batch),
        ("steps", plan.steps),
        ("tokens learnt from, at most", plan.learnt),
        ("tokens replayed", plan.replayed),
        ("tokens sampled from the base, once", plan.sampled),
        *((f"rows run over without gradient: {why}", rows) for why, rows in plan.looks.items()),
    ):
        table.add_row(what, f"{figure:,}")
    console.print(table)


def _rules(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    return [(name, arguments) for entry in recipe.rules for name, arguments in entry.items()]


def _frozen(recipe: Recipe) -> Select | None:
    """What the rules freeze from the first step on."""
    frozen = [given for name, given in _rules(recipe) if name == "frozen" and "during" not in given]
    texts = [given.get("within") or given.get("select") or "everything" for given in frozen]
    return reduce(lambda a, b: a | b, map(parse, texts)) if texts else None


def _sampled(recipe: Recipe) -> int:
    """Rows that the base makes up: the guarded ones, and as many again where a rule asks for them."""
    asked = {
        name for _, given in _rules(recipe) for name in _listed(given.get("source")) if name in (SELF, SOUND, CHAT)
    }
    return recipe.keep.rows * ((SELF in recipe.keep.texts) + len(asked))


def _listed(source: Any) -> list[Any]:
    return source if isinstance(source, list) else [source]


def _looks(recipe: Recipe, texts: Texts, count: int) -> dict[str, int]:
    monitor, guarded, measured = recipe.monitor, texts.outline, len(texts.learn[1].rows)
    times = count // (monitor.every or max(1, count // LOOKS))
    looks = {"monitor": times * min(monitor.rows, measured)}
    if (governor := _governor(recipe, guarded)) is not None:
        looked = sum(min(governor.look, len(guard.control)) for guard in governor.guards)
        looks["governor, while training"] = count // governor.every * looked
    return {
        **looks,
        "certificate, before and after": 2 * (sum(len(text.audit.rows) for text in guarded.values()) + measured),
    }


def _governor(recipe: Recipe, guarded: Mapping[str, Guarded]) -> Governor | None:
    """The governor on the outline of its texts; refuses a budget that so many documents cannot resolve."""
    keep = recipe.keep
    guards = [
        Guard(name, text.control.rows, text.audit.documents, budget)
        for name, text in guarded.items()
        if (budget := keep.budget_of(name)) is not None
    ]
    if not guards or not keep.govern:
        return None
    governor = Governor(guards, **keep.settings)
    for guard in guards:
        guard.refuse(governor.confidence)
    return governor
