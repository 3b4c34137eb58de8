"""The plan of a recipe: what would train, on how much, and what it costs; no weights are loaded, nothing is written."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text as Words

from holdfast.base import Base
from holdfast.budget import Guard
from holdfast.data.probes import CHAT, SELF, SOUND
from holdfast.evaluation.looks import Looks
from holdfast.governor import Governor
from holdfast.params import plan as freezing
from holdfast.params.select import Select, parse
from holdfast.recipe.building import governing
from holdfast.recipe.checking import settings_of
from holdfast.recipe.classifying import with_head
from holdfast.recipe.comparing import chosen
from holdfast.recipe.loading import resolved
from holdfast.recipe.memory import activations
from holdfast.recipe.model import bare, outlined, parameters
from holdfast.recipe.schema import Recipe
from holdfast.recipe.tasks import check_task, classifying
from holdfast.recipe.texts import Guarded, Texts
from holdfast.recipe.training import learning_rate, steps, training_arguments
from holdfast.recipe.vocabulary import extended
from holdfast.remedies.replay import Replay
from holdfast.remedies.schedules import average
from holdfast.rule import rules

logger = logging.getLogger(__name__)

ONLY_READ = (
    "Rows only read run through the model to be measured: nothing is learnt from them, and each takes about a third of "
    "the time of a row that is."
)


@dataclass(frozen=True)
class Plan:
    """What a run would do. `rows` are there to learn from; `learnt`, `replayed` and `sampled` count tokens.

    `activations` are the bytes that a backward pass needs beside weights, gradients and optimiser, where they can be
    counted. `looks` maps each reason to look at a text to the number of rows that the model reads for it, without
    gradient.
    """

    recipe: Recipe
    freeze: freezing.Plan
    activations: int | None
    rows: int
    steps: int
    batch: int
    learnt: int
    replayed: int
    sampled: int
    looks: Mapping[str, int]


def plan(recipe: Recipe) -> Plan:
    """The plan of a recipe, from config, tokenizer and data alone; raises what `run` would raise before training."""
    model, tokenizer = bare(recipe.base)
    for suite in chosen(recipe.evaluate.suites, recipe.evaluate.learnt):
        suite.check()
    base = Base(model, tokenizer, recipe.base, "")
    extended(recipe, model, base.tokenizer)
    texts = Texts(recipe, base)
    headed = with_head(model, recipe.base, base.pad_id, texts.classes, recipe.seed) if classifying(recipe) else model
    check_task(recipe, model, headed)
    rows = len(texts.learn[0])
    args = training_arguments(recipe, rows, Path(recipe.output))
    count, batch = steps(args, rows), args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    trained = outlined(recipe, headed, count)
    shares = [given.get("share", settings_of(Replay)["share"]) for name, given in _rules(recipe) if name == "replay"]
    rows_in_all = math.prod(1 + average(share, count) for share in shares)
    length = recipe.learn.length
    return Plan(
        recipe=recipe,
        freeze=freezing.plan(parameters(recipe, trained), _frozen(recipe)),
        activations=activations(
            trained,
            math.ceil(args.train_batch_size * rows_in_all),
            recipe.learn.length,
            checkpointing=bool(args.activation_checkpointing),
        ),
        rows=rows,
        steps=count,
        batch=batch,
        learnt=count * batch * length,
        replayed=round(count * batch * length * (rows_in_all - 1)),
        sampled=_sampled(recipe) * length,
        looks=_looks(recipe, texts, count, batch * length * rows_in_all),
    )


def render_run_plan(plan: Plan, console: Console) -> None:
    """Print a plan: what trains and its memory, what the recipe says, then steps, tokens and looks."""
    freezing.render_plan(plan.freeze, console)
    console.print(_said(plan.recipe))
    table = Table(title="The run", title_justify="left", show_header=False)
    table.caption = Words(ONLY_READ, justify="left")
    table.add_column()
    table.add_column(justify="right")
    for what, figure in (
        ("rows to learn from", plan.rows),
        ("rows in a step", plan.batch),
        ("steps", plan.steps),
        ("tokens learnt from, at most", plan.learnt),
        ("tokens replayed", plan.replayed),
        ("tokens sampled from the base, once", plan.sampled),
        *((f"rows only read: {why}", rows) for why, rows in plan.looks.items()),
    ):
        table.add_row(what, f"{figure:,}")
    if plan.activations is not None:
        table.add_row("memory of activations, about", decimal(plan.activations))
        table.add_row("memory of a step in all, about", decimal(plan.activations + plan.freeze.cost.total))
    console.print(table)


def _said(recipe: Recipe) -> Table:
    """What a recipe asks for, a line each, as it will be carried out."""
    table = Table(title="The recipe", title_justify="left", show_header=False)
    keep, method = recipe.keep, dict(resolved(recipe)["method"])
    lines = [("learnt", f"{recipe.learn.data}, in rows of {recipe.learn.length} tokens")]
    lines += [("kept", f"{name}, {_budget(keep.budget_of(name), keep.govern)}") for name in keep.texts]
    lines.append(("method", _named(method.pop("name"), method)))
    own = "" if "learning_rate" in recipe.train else ", the method's own"
    lines.append(("learning rate", f"{learning_rate(recipe):g}{own}"))
    lines += [("rule", _named(name, {**_strength(name), **given})) for name, given in _rules(recipe)]
    lines.append(("output", recipe.output))
    before = ""
    for what, said in lines:
        table.add_row("" if what == before else what, Words(said))
        before = what
    return table


def _budget(budget: float | None, governed: bool) -> str:
    if budget is None:
        return "without a budget: only measured"
    return f"budget {100 * budget:g} %" + ("" if governed else ", without governor: only measured")


def _strength(rule: str) -> dict[str, Any]:
    default = settings_of(rules[rule]).get("strength", ...)
    return {} if default in (..., None) else {"strength": default}


def _named(name: str, settings: Mapping[str, Any]) -> str:
    """A name and its settings as a recipe would say them; what is not set is left away."""
    told = [f"{key} {_value(value)}" for key, value in settings.items() if value is not None]
    return f"{name}: {', '.join(told)}" if told else name


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


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


def _looks(recipe: Recipe, texts: Texts, count: int, tokens: float) -> dict[str, int]:
    """Rows read by whom, where a step learns from so many tokens."""
    guarded, measured = texts.outline, len(texts.learn[1].rows)
    looks = {"monitor": _monitored(recipe, texts, guarded, count, tokens)}
    if (governor := _governor(recipe, guarded, count)) is not None:
        looked = sum(min(governor.look, len(guard.control)) for guard in governor.guards)
        looks["governor, while training"] = count // governor.every * looked
    return {
        **looks,
        "certificate, before and after": 2 * (sum(len(text.audit.rows) for text in guarded.values()) + measured),
    }


def _monitored(recipe: Recipe, texts: Texts, guarded: Mapping[str, Guarded], count: int, tokens: float) -> int:
    wanted, keep = recipe.monitor, recipe.keep
    left = {n: t.control.rows for n, t in guarded.items() if not keep.govern or keep.budget_of(n) is None}
    looks = Looks({"": texts.learn[1].rows}, left, every=wanted.every, rows=wanted.rows, share=wanted.share)
    looks.plan(tokens, count)
    return count // (looks.every or count) * sum(len(rows[: looks.rows]) for rows in looks.texts.values())


def _governor(recipe: Recipe, guarded: Mapping[str, Guarded], count: int) -> Governor | None:
    """The governor on the outline of its texts; refuses a budget that so many documents cannot resolve."""
    keep = recipe.keep
    guards = [
        Guard(name, text.control.rows, text.audit.documents, budget)
        for name, text in guarded.items()
        if (budget := keep.budget_of(name)) is not None
    ]
    if not guards or not keep.govern:
        return None
    governor = Governor(guards, **governing(recipe, count))
    for guard in guards:
        guard.refuse(governor.confidence)
    return governor
