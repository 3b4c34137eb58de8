"""A model with the items that it recommends, opened as its run's recipe says and asked in the words of its training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from holdfast._errors import BadInput, UnknownName
from holdfast.base import CONFIG, Base
from holdfast.evaluation.metrics.registry import room
from holdfast.items.catalogue import Catalogue, Interaction, Item, popularity
from holdfast.items.reading import load as load_items
from holdfast.items.tasks import FIVE, TASKS, Prompts
from holdfast.items.trie import Trie
from holdfast.recipe.catalogue import catalogue, indexed, prompted, without_ids
from holdfast.recipe.comparing import MERGED, model_folder, opened
from holdfast.recipe.loading import load
from holdfast.recipe.schema import Recipe

RECIPE = "recipe.yaml"

LONGEST = 512
"""Tokens of a prompt with its answer where no recipe says how many, if the model reads as many."""

RECOMMENDING = tuple(name for name, task in TASKS.items() if task.answer == "id" and not task.of_items)
"""The tasks whose answer is the ID of what comes next."""

_INSIDE = re.compile(r"final|merged|adapter|checkpoint-\d+")
"""Folders inside a run or an export, whose recipe stands one folder above."""


@dataclass(frozen=True)
class Recommended:
    """One recommendation; `probability` is that of the ID's tokens after the prompt, among all texts."""

    rank: int
    item: str
    title: str
    sid: str
    probability: float


@dataclass(frozen=True, eq=False)
class Recommender:
    """A model, its items, the prompts that it was taught with, and the tree of the items' IDs in its tokens.

    `folder` is that of its run, or of the model; None for one from elsewhere. `recipe` is the run's, if there is one.
    """

    base: Base
    catalogue: Catalogue
    prompts: Prompts
    trie: Trie[str]
    folder: Path | None = None
    recipe: Recipe | None = None

    @property
    def learnt(self) -> tuple[str, ...]:
        """The tasks that it was taught; all that there are where no recipe says."""
        return tuple(TASKS) if self.recipe is None else taught(self.recipe)

    @property
    def training(self) -> tuple[Interaction, ...]:
        """The interactions that it learnt from; empty where its catalogue has none."""
        return self.catalogue.splits.get("train" if self.recipe is None else self.recipe.learn.split, ())

    @cached_property
    def counts(self) -> dict[str, int]:
        """How often each item was chosen in training."""
        return dict(popularity(self.training))

    @cached_property
    def stand_in(self) -> str:
        """The item in place of a target that nobody knows yet; its ID is the longest, so that every answer has room."""
        return max(self.catalogue.tokens, key=lambda item: len(self.catalogue.tokens[item]))

    def prompt(self, task: str, case: Interaction, prompts: Prompts | None = None) -> str:
        """What the model reads in a case: the words of its training; the target has no part in them.

        Raises BadInput where the words do not fit into what it read in training, and as `check_task`.
        """
        self.check_task(task)
        return (prompts or self.prompts).record(task, replace(case, target=self.stand_in)).prompt

    def check_task(self, task: str) -> None:
        """Raise UnknownName or BadInput unless the model learnt to name the ID that follows so."""
        check_task(task, self.learnt)

    def asking(self, task: str | None) -> str:
        """The task whose words ask: the one that is named, else the first that was learnt; raises as `check_task`."""
        task = task or default_task(self.learnt)
        self.check_task(task)
        return task

    def titled(self, histories: Sequence[Sequence[str]]) -> tuple[Prompts, list[tuple[str, ...]]]:
        """Prompts that know these titles too, and the histories as item ids; a title need not be of the catalogue."""
        known = self.catalogue.by_title
        new = dict.fromkeys(title for titles in histories for title in titles if title not in known)
        keys = {title: f"title {number}" for number, title in enumerate(new)}
        items = {**self.catalogue.items, **{key: Item(key, title) for title, key in keys.items()}}
        told = [tuple(keys[title] if title in keys else known[title][0] for title in titles) for titles in histories]
        return self._prompts(replace(self.catalogue, items=items)), told

    def _prompts(self, items: Catalogue) -> Prompts:
        return prompts_of(items, self.base, self.recipe)


def taught(recipe: Recipe) -> tuple[str, ...]:
    """The tasks that a recipe teaches about items."""
    return tuple(recipe.learn.tasks or FIVE)


def default_task(learnt: Sequence[str]) -> str:
    """The task whose words ask unless told: `history` where it was learnt, else another that recommends.

    Raises BadInput where nothing that recommends was learnt.
    """
    found = next((task for task in RECOMMENDING if task in learnt), None)
    if found is None:
        raise BadInput(
            f"Nothing that recommends is taught: {', '.join(learnt)} name no item that comes next by its ID. Add "
            f"{' or '.join(RECOMMENDING)}: `learn.tasks: {{{RECOMMENDING[0]}: 1}}`."
        )
    return found


def check_task(task: str, learnt: Sequence[str]) -> None:
    """Raise UnknownName for a task that recommends nothing, BadInput for one that was not learnt."""
    if task not in RECOMMENDING:
        raise UnknownName("task that recommends called", task, RECOMMENDING)
    if task not in learnt:
        able = " or ".join(name for name in learnt if name in RECOMMENDING)
        raise BadInput(
            f"This model did not learn the task {task!r}; it learnt {', '.join(learnt)}. "
            f"{f'Ask for {able}, or train' if able else 'Train'} it with `learn.tasks: {{{task}: 1}}`."
        )


def open_recommender(model: str | Path, *, data: str | Path | None = None, dataset: str | None = None) -> Recommender:
    """A model by any name that the command line takes, with its catalogue.

    A run (its folder, `final/`, a checkpoint) or an export of one brings a recipe, which names the items, their IDs and
    the prompts; `data` is a catalogue's folder in their place, needed for any other model, `dataset` one of several in
    it. IDs that a recipe takes from elsewhere than its data stay those.

    Raises BadInput for a run that is not finished, a recipe without items, items without IDs, IDs whose tokens the
    model lacks or that do not fit the items.
    """
    place = Path(model)
    if (inside := Path(model_folder(place))).name == MERGED:
        place = inside
    recipe = recipe_of(place)
    items = _items(str(model), recipe, data, dataset)
    if not items.tokens:
        raise without_ids(items.source)
    _check_finished(place)
    base = opened(model)
    words = base.model.config.get_text_config().vocab_size
    trie = Trie.from_tokens(items.tokens, base.tokenizer, vocabulary=words)
    folder = (place.parent if place.name == "final" else place) if place.is_dir() else None
    return Recommender(base, items, prompts_of(items, base, recipe), trie, folder, recipe)


def recipe_of(model: Path) -> Recipe | None:
    """The recipe that a model's folder, or the run around it, was made by; None where there is none."""
    above = [model.parent] if _INSIDE.fullmatch(model.name) else []
    found = next((folder / RECIPE for folder in (model, *above) if (folder / RECIPE).is_file()), None)
    return None if found is None else load(found)


def prompts_of(items: Catalogue, base: Base, recipe: Recipe | None) -> Prompts:
    """The prompts of a recipe; without one those of `TASKS`, as long as the model reads."""
    if recipe is not None:
        return prompted(items, recipe.learn, base.tokenizer)
    return Prompts(items, tokenizer=base.tokenizer, max_tokens=min(LONGEST, room(base.model)))


def _items(model: str, recipe: Recipe | None, data: str | Path | None, dataset: str | None) -> Catalogue:
    if recipe is None:
        if data is None:
            missing = "" if Path(model).exists() else f"There is no folder {model} here. As a name from elsewhere, "
            raise BadInput(
                f"{missing}{model} brings no {RECIPE}, so nobody knows what it recommends. "
                "Name the folder of its items: --data FOLDER."
            )
        return load_items(Path(data).expanduser(), dataset)
    if data is None:
        found = catalogue(recipe)
        if found is None:
            raise BadInput(
                f"The run in {model} learnt from {recipe.learn.data}, which holds no items (any longer). Name their "
                "folder, if there is one: --data FOLDER."
            )
        return found
    wanted = recipe.vocabulary
    found = load_items(Path(data).expanduser(), dataset or (wanted.dataset if wanted else None))
    elsewhere = wanted is not None and wanted.items not in (None, recipe.learn.data)
    return found.with_tokens(indexed(wanted)) if wanted is not None and elsewhere else found


def _check_finished(place: Path) -> None:
    """Raise BadInput for a run's folder from which no model can be taken yet."""
    found = Path(model_folder(place))
    model = found != place or (place / CONFIG).is_file() or any(place.glob("*.safetensors"))
    if (place / RECIPE).is_file() and not model:
        raise BadInput(f"{place} holds no finished run: there is no final/ in it. Train it first, or --resume it.")
