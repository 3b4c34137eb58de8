"""What a recipe with `tasks` may say, and the recipe of each of its runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from holdfast._errors import BadInput
from holdfast.adapters.method import methods
from holdfast.data.probes import CHAT, SELF, SOUND
from holdfast.recipe.catalogue import has_items
from holdfast.recipe.checking import checked
from holdfast.recipe.faults import explained, known
from holdfast.recipe.loading import values
from holdfast.recipe.schema import Keep, Learn, Method, Monitoring, Part, Recipe, Samples
from holdfast.recipe.spelling import spelt_out as spelt_out_recipe
from holdfast.sequence.words import BEFORE, MADE_UP, TASKS, Rules, asked, resolved

NO_ITEMS = (
    "A sequence learns texts, without new tokens or catalogues of items, and {} asks for such. Train items by a "
    "recipe of their own: holdfast sid train."
)

Metric = Literal["auto", "choice_accuracy", "exact_match", "loss"]


class Task(Learn):
    """One task: its data as under `learn`, its `name`, and how it is measured.

    `metric` auto is `choice_accuracy` where every test record has choices, `exact_match` where it has a prompt, else
    `loss`. `items` bounds the test records. `train` and `rules` are this task's own: the former is laid over the
    sequence's, the latter stand instead of them.
    """

    name: str
    metric: Metric = "auto"
    items: Annotated[int, Field(ge=2)] = 1024
    train: dict[str, Any] = Field(default_factory=dict)
    rules: list[dict[str, dict[str, Any]]] | None = None


class SequenceRecipe(Part):
    """A sequence of tasks: each is a run that starts from the model before.

    `keep.budget` counts from the original base for general texts, and for `tasks` (all earlier ones together) or a
    task's own name from the model that had just learnt them. `spend` says how much of a budget may be gone after a
    task: `evenly` the part of the tasks that are done, `freely` all of it. `reservoir` bounds the rows that are
    remembered for the replay source `tasks`. `adapter` says whether an adapter learns on (`continue`) or is merged
    into the model and a new one begun (`merge`). `references` are further runs for comparison, without rules.
    """

    base: str
    tasks: Annotated[list[Task], Field(min_length=1)]
    keep: Keep = Keep()
    method: Method = Method()
    train: dict[str, Any] = Field(default_factory=dict)
    rules: list[dict[str, dict[str, Any]]] = Field(default_factory=list)
    spend: Literal["evenly", "freely"] = "evenly"
    reservoir: Annotated[int, Field(ge=1)] = 2048
    adapter: Literal["continue", "merge"] = "continue"
    references: list[Literal["joint", "single"]] = Field(default_factory=list)
    monitor: Monitoring = Monitoring()
    samples: Samples = Samples()
    seed: Annotated[int, Field(ge=0)] = 0
    output: str

    @property
    def names(self) -> list[str]:
        """The names of the tasks, in order."""
        return [task.name for task in self.tasks]

    def budget_of(self, name: str) -> float | None:
        """The whole budget of a general text, of a task, or of `tasks`; one number is for the texts and for `tasks`."""
        budget = self.keep.budget
        if isinstance(budget, dict):
            return budget.get(name)
        return None if name in self.names else budget

    def allowed(self, name: str, place: int) -> float | None:
        """What of a budget may be gone after the task at `place` (from 0): relative rise of perplexity."""
        budget, general = self.budget_of(name), name in self.keep.texts
        if budget is None or self.spend == "freely":
            return budget
        done, of = (place + 1, len(self.tasks)) if general else (place, len(self.tasks) - 1)
        if name in self.names:
            first = self.names.index(name)
            done, of = place - first, len(self.tasks) - 1 - first
        return math.expm1(math.log1p(budget) * done / max(of, 1))

    def folder(self, place: int) -> Path:
        """The run folder of a task, below the sequence's."""
        return Path(self.output) / f"{place + 1}-{self.tasks[place].name}"

    def of(self, place: int) -> Recipe:
        """The recipe of one task, as if it began from the original base."""
        task = self.tasks[place]
        budget = {name: share for name in self.keep.texts if (share := self.allowed(name, place)) is not None}
        return self._derived(task, {**self.train, **task.train}, self._rules(place), self.folder(place), budget)

    def _rules(self, place: int) -> Rules:
        """The rules of a task, with what they name of the tasks before it."""
        own = self.tasks[place].rules
        former = self._rules(place - 1) if place else None
        return resolved(self.rules if own is None else own, former, [self.folder(i) for i in range(place)])

    def reference(self, place: int | None, steps: int) -> Recipe:
        """The recipe of a reference: one task alone, or (None) all together for as many steps; no rules, no budget."""
        task = self.tasks[place or 0]
        name, train = ("joint", dict(self.train)) if place is None else (f"single-{task.name}", task.train)
        train = {**self.train, **train, "max_steps": steps}
        return self._derived(task, train, [], Path(self.output) / name, {})

    def _derived(
        self, task: Task, train: Mapping[str, Any], rules: Sequence[Any], folder: Path, budget: Mapping[str, float]
    ) -> Recipe:
        learn = {key: value for key, value in task.model_dump().items() if key in Learn.model_fields}
        shared = self.model_dump(include={"base", "method", "monitor", "samples", "seed"})
        keep = {**self.keep.model_dump(), "budget": dict(budget) or None}
        return checked({**shared, "learn": learn, "keep": keep, "train": train, "rules": rules, "output": str(folder)})


def load(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> SequenceRecipe:
    """A sequence from a YAML file, a mapping, or a shipped name; `overrides` as for a recipe (`tasks.trec.items=64`).

    Raises BadInput, and UnknownName for a key, rule, method or argument that there is not.
    """
    return sequence(values(recipe, overrides))


def sequence(raw: Mapping[str, Any]) -> SequenceRecipe:
    """A checked sequence from plain values; `learn`, if there, holds what the tasks share (`learn: {length: 64}`)."""
    _check_items(raw)
    spelt = _spelt_out(raw)
    try:
        made = SequenceRecipe.model_validate(spelt)
    except ValidationError as error:
        raise explained(error, spelt, SequenceRecipe) from None
    _check_names(made)
    if items := [task.name for task in made.tasks if task.tasks or task.templates or has_items(task.data)]:
        raise BadInput(NO_ITEMS.format(", ".join(items)))
    for place in range(len(made.tasks)):
        made.of(place)
    return made


def _check_items(raw: Mapping[str, Any]) -> None:
    """Raise BadInput for what would give the models of a sequence new tokens."""
    if named := [key for key in ("vocabulary", "freeze_llm") if raw.get(key)]:
        raise BadInput(NO_ITEMS.format(f"`{named[0]}`"))


def _spelt_out(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Short forms in full, and what the tasks share in each of them."""
    full = dict(raw)
    shared = full.pop("learn", None) or {}
    if not isinstance(shared, Mapping) or not isinstance(full.get("tasks"), list):
        raise BadInput("A sequence has `tasks`, a list of mappings; `learn` beside it is a mapping of what they share.")
    known("key that tasks share under `learn` called", shared, set(Learn.model_fields) - {"data", "evaluation"})
    tasks = [{**shared, **spelt_out_recipe(t)} if isinstance(t, Mapping) else t for t in full["tasks"]]
    return {**spelt_out_recipe(full), "tasks": tasks}


def _check_names(recipe: SequenceRecipe) -> None:
    for name in recipe.names:
        if not re.fullmatch(r"[\w.][\w.-]*", name) or name in (TASKS, *recipe.keep.texts):
            raise BadInput(f"A task cannot be called {name!r}: take letters, digits, `_`, `.` and `-`, not `{TASKS}`.")
        if recipe.names.count(name) > 1:
            raise BadInput(f"Two tasks are called {name!r}; results could not be told apart.")
    if labelled := [task.name for task in recipe.tasks if task.task == "classify"]:
        raise BadInput(
            f"The tasks of a sequence are learnt as text, so that one model does them all; {', '.join(labelled)} has a "
            "head of its own. Leave `task: classify` away (records with `prompt`, `answer` and `choices` are judged "
            "by their choices), or train it by a recipe of its own."
        )
    traits = methods.traits(recipe.method.name)
    if recipe.adapter == "merge" and (not traits.merges or traits.loading is not None):
        raise BadInput(
            f"What `{recipe.method.name}` learns cannot be merged into the weights as they are stored. Take "
            "`adapter: continue`, or another method."
        )
    if recipe.adapter == "continue" and len(recipe.tasks) > 1 and not traits.continues:
        raise BadInput(f"An adapter of `{recipe.method.name}` cannot learn on once it is saved. Take another method.")
    if isinstance(recipe.keep.budget, dict):
        known("guarded text or task called", recipe.keep.budget, [*recipe.keep.texts, TASKS, *recipe.names])
    for rules in (recipe.rules, *(task.rules or [] for task in recipe.tasks)):
        named = any((given or {}).get("adapters") == TASKS for entry in rules for given in entry.values())
        if named and (recipe.adapter != "merge" or recipe.method.name != "lora"):
            raise BadInput(
                "`adapters: tasks` holds a new adapter apart from those of earlier tasks: it takes `method: lora` and "
                "`adapter: merge`. An adapter that continues would be held apart from itself."
            )
        pairs = [(name, given or {}) for entry in rules for name, given in entry.items()]
        every, carried = [name for name, _ in pairs], [n for n, given in pairs if given.get("importance") == BEFORE]
        if twice := next((name for name in carried if every.count(name) > 1), None):
            raise BadInput(
                f"`importance: before` goes by the rule's name, and there are several `{twice}`. Keep one of them, or "
                "name the file of an earlier run instead."
            )
        made_up = [source for source in asked(rules) if source.startswith(MADE_UP)]
        known("source that the model before makes up called", made_up, [MADE_UP + name for name in (SELF, SOUND, CHAT)])
