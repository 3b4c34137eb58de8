"""Training tasks as templates: one text for each, the same in training and in evaluation."""

from __future__ import annotations

import logging
import math
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput, UnknownName
from holdfast.data.formats import Completion
from holdfast.data.rows import all_tokens
from holdfast.items.catalogue import Catalogue, Interaction
from holdfast.items.preferences import Preferences

logger = logging.getLogger(__name__)

MOST_ITEMS = 10
"""Items of a history that a prompt tells, as in the published data."""

AROUND = 2
"""Tokens that stand around a prompt and its completion: BOS and EOS."""


class Unfit(BadInput):
    """A record that does not fit into the tokens that it may have, even with the last item alone."""


@dataclass(frozen=True)
class Task:
    """What is given, what is asked for, and how it is put: `template` holds `{given}` once or more.

    `given` is of a history, oldest first, `ids` (nothing between them: a blank costs a small vocabulary two tokens) or
    `titles` (each on a line), a `preference`, or of one item its `id` or `title`; `answer` is `id` or `title`, of the
    item that came next, or of that one item.
    """

    name: str
    given: str
    answer: str
    template: str

    @property
    def of_items(self) -> bool:
        """Whether it asks about items by themselves, rather than about what came next."""
        return self.given in ("id", "title")


TASKS = {
    task.name: task
    for task in (
        Task("history", "ids", "id", "History: {ids}\nNext:"),
        Task("id_to_title", "id", "title", "Item: {id}\nTitle:"),
        Task("title_to_id", "title", "id", "Title: {title}\nItem:"),
        Task("history_to_title", "ids", "title", "History: {ids}\nNext title:"),
        Task("titles_to_id", "titles", "id", "Titles:\n{titles}\nNext:"),
        Task("titles_to_title", "titles", "title", "Titles:\n{titles}\nNext title:"),
        Task("preference", "preference", "id", "Wanted: {preference}\nNext:"),
    )
}
"""All tasks by name. The texts are short, for a history has to fit beside them into a context of 512 tokens."""

FIVE = ("history", "id_to_title", "title_to_id", "history_to_title", "titles_to_title", "titles_to_id")
"""The mixture of the guide: five sets, six names, for the set between IDs and titles goes both ways."""


class Prompts:
    """Records of a catalogue, task by task; one such object serves training and evaluation, so their prompts agree.

    `templates` puts other texts in place of those of `TASKS`, each with the placeholder of its task. A history keeps
    its last `most_items`; with a tokenizer and `max_tokens` (of prompt and completion with BOS and EOS) its oldest
    items are dropped until the record fits, so that the instruction and the answer stay whole.

    >>> from holdfast.items.catalogue import Item
    >>> items = {"1": Item("1", "red cup"), "2": Item("2", "red plate")}
    >>> shop = Catalogue("shop", items, {"1": ("<a_1>", "<b_1>"), "2": ("<a_1>", "<b_2>")})
    >>> record = Prompts(shop).record("history", Interaction("ann", ("1",), "2"))
    >>> print(record.prompt + record.completion)
    History: <a_1><b_1>
    Next:<a_1><b_2>

    Raises UnknownName for a template of no task, BadInput for one without its placeholder or with another.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        templates: Mapping[str, str] | None = None,
        most_items: int = MOST_ITEMS,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_tokens: int | None = None,
    ):
        if most_items < 1 or (max_tokens is not None and tokenizer is None):
            raise BadInput("A prompt needs most_items of at least 1, and a tokenizer where max_tokens is given.")
        self.catalogue, self.most_items = catalogue, most_items
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.templates = {name: task.template for name, task in TASKS.items()} | checked(templates or {})
        self._preferences = Preferences(catalogue)

    def record(self, task: str, of: Interaction | str) -> Completion:
        """The record of a task about an interaction or, where the task is of items, about an item's id.

        An ID stands as its tokens joined, all levels; as completion exactly so, without a blank before. A title as
        completion has one blank before it. Where a title belongs to several items, `references` has all their IDs.
        Raises Unfit where not even the last item fits into `max_tokens`, BadInput for the wrong kind of `of`.
        """
        (record,) = self._fitting(_task(task), [of])
        if record is None:
            raise Unfit(f"The task {task!r} of {_called(of)} does not fit into {self.max_tokens} tokens. Allow more.")
        return record

    def records(self, task: str, split: str) -> list[Completion]:
        """The records of a task over a split, or over all items; those that do not fit are left out with a warning."""
        kind = _task(task)
        about = list(self.catalogue.items) if kind.of_items else self.catalogue.split(split)
        found = self._fitting(kind, about)
        kept = [record for record in found if record is not None]
        if len(kept) < len(found):
            few = len(found) - len(kept)
            logger.warning("%s: %d of %d records do not fit into %s tokens.", task, few, len(found), self.max_tokens)
        return kept

    def mixture(
        self, split: str = "train", tasks: Mapping[str, float] | None = None, *, seed: int = 0, size: int | None = None
    ) -> list[Completion]:
        """Records of several tasks, shuffled; the same for the same seed.

        `tasks` says how often each record of a task comes: 1 once, 0.5 a drawn half of them, 2.5 twice and a drawn
        half again. By default the guide's five sets, each once. `size` keeps so many of all. Raises BadInput for
        weights that are not positive and finite, UnknownName for an unknown task or split.
        """
        weights = dict.fromkeys(FIVE, 1.0) if tasks is None else dict(tasks)
        if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights.values()):
            raise BadInput(f"A mixture takes at least one task, each with a positive weight, not {weights}.")
        mixed = [
            record
            for name, weight in weights.items()
            for record in _times(self.records(name, split), weight, random.Random(f"{seed} {name}"))
        ]
        random.Random(seed).shuffle(mixed)
        return mixed[:size]

    def _fitting(self, task: Task, about: Sequence[Interaction | str]) -> list[Completion | None]:
        """Of each the record with as much of the history as fits; None where not even the last item does."""
        found: list[Completion | None] = [None] * len(about)
        left = {place: self._most(task, of) for place, of in enumerate(about)}
        while left:
            made = [self._record(task, about[place], count) for place, count in left.items()]
            fits = self._fit(made)
            for place, record, fit in zip(left, made, fits, strict=True):
                found[place] = record if fit else None
            left = {
                place: count - 1
                for (place, count), fit in zip(left.items(), fits, strict=True)
                if not fit and count > 1
            }
        return found

    def _most(self, task: Task, of: Interaction | str) -> int:
        """How many items of a history are told at most."""
        if isinstance(of, str) != task.of_items:
            raise BadInput(f"The task {task.name!r} is about {'an item id' if task.of_items else 'an interaction'}.")
        told = 1 if isinstance(of, str) or task.given == "preference" else len(of.history)
        return min(told, self.most_items)

    def _record(self, task: Task, of: Interaction | str, count: int) -> Completion:
        given = self._given(task.given, of, count)
        prompt = self.templates[task.name].format(**{task.given: given})
        answer = of if isinstance(of, str) else of.target
        if task.answer == "title":
            return Completion(prompt, _spaced(prompt) + self.catalogue.title(answer))
        same = self.catalogue.by_title[given] if task.given == "title" else ()
        right = tuple(dict.fromkeys(map(self.catalogue.sid, same))) if len(same) > 1 else ()
        return Completion(prompt, self.catalogue.sid(answer), references=right)

    def _given(self, given: str, of: Interaction | str, count: int) -> str:
        if isinstance(of, str):
            return self.catalogue.sid(of) if given == "id" else self.catalogue.title(of)
        if given == "preference":
            return self._preferences.told(of)
        history = of.history[-count:]
        ids = given == "ids"
        return ("" if ids else "\n").join(map(self.catalogue.sid if ids else self.catalogue.title, history))

    def _fit(self, records: Sequence[Completion]) -> list[bool]:
        if self.tokenizer is None or self.max_tokens is None:
            return [True] * len(records)
        whole = all_tokens(self.tokenizer, [record.prompt + record.completion for record in records])
        return [len(ids) + AROUND <= self.max_tokens for ids in whole]


def checked(templates: Mapping[str, str]) -> dict[str, str]:
    """The templates, each with exactly the placeholder of its task; raises UnknownName and BadInput otherwise."""
    for name, template in templates.items():
        task = _task(name)
        try:
            fields = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
        except ValueError as error:
            raise BadInput(
                f"The template of {name!r} cannot be read: {error}. Double a brace that is meant."
            ) from error
        if not fields or any(field != (task.given, "", None) for field in fields):
            raise BadInput(f"The template of {name!r} takes {{{task.given}}} and no other placeholder: {template!r}.")
    return dict(templates)


def _task(name: str) -> Task:
    if name not in TASKS:
        raise UnknownName("task called", name, TASKS)
    return TASKS[name]


def _times(records: list[Completion], weight: float, chance: random.Random) -> list[Completion]:
    whole, rest = divmod(weight, 1)
    return records * int(whole) + chance.sample(records, round(rest * len(records)))


def _spaced(prompt: str) -> str:
    return "" if prompt[-1:].isspace() else " "


def _called(of: Interaction | str) -> str:
    return f"item {of!r}" if isinstance(of, str) else f"user {of.user!r} in line {of.line}"
