"""A catalogue: its items in words, their semantic IDs where they have some, and who chose what after what."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from holdfast._errors import BadInput, UnknownName

SPLITS = ("train", "valid", "test")

TOKEN = re.compile(r"<[^<>\s]+>")
"""One token of a semantic ID, `<a_236>`: such tokens, joined, can be told apart again."""


@dataclass(frozen=True)
class Item:
    """One item in words; `description` keeps its paragraphs."""

    id: str
    title: str
    description: tuple[str, ...] = ()
    brand: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interaction:
    """A user, what they chose before (item ids, oldest first), what came next, and the line that says so.

    `preference` is what the user wants in words, where the data bring it.
    """

    user: str
    history: tuple[str, ...]
    target: str
    line: int = field(default=0, compare=False)
    preference: str = ""


class Fault(NamedTuple):
    """A place in a file and what is wrong there; lines count from 1."""

    file: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.why}"


@dataclass(frozen=True)
class Catalogue:
    """Items by id in the order of their file, semantic-ID tokens by item id, and interactions by split.

    `tokens` is empty before IDs are built; then there are titles and histories to work with. `faults` are the rows
    that were left out when it was read, `notes` those that were kept although they contradict the index or the
    titles, which win. `source` says where it is from.
    """

    name: str
    items: Mapping[str, Item]
    tokens: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    splits: Mapping[str, tuple[Interaction, ...]] = field(default_factory=dict)
    source: str = ""
    faults: tuple[Fault, ...] = ()
    notes: tuple[Fault, ...] = ()

    def split(self, name: str) -> tuple[Interaction, ...]:
        """The interactions of a split; raises UnknownName with those that there are."""
        if name not in self.splits:
            raise UnknownName(f"split of the catalogue {self.name!r} called", name, self.splits)
        return self.splits[name]

    def sid(self, item: str) -> str:
        """An item's semantic ID, its tokens joined; raises BadInput where there are no IDs, UnknownName for no item."""
        if not self.tokens:
            raise BadInput(f"The items of {self.name!r} have no semantic IDs yet. Build them first, or give an index.")
        if item not in self.tokens:
            raise UnknownName("item with a semantic ID called", item, self.tokens)
        return "".join(self.tokens[item])

    def title(self, item: str) -> str:
        """The title of an item on one line; raises UnknownName for no item."""
        if item not in self.items:
            raise UnknownName(f"item of {self.name!r} called", item, self.items)
        return one_line(self.items[item].title)

    @cached_property
    def by_title(self) -> dict[str, tuple[str, ...]]:
        """The items of each title, as `title` gives it: several items may bear the same."""
        return grouped((self.title(item), item) for item in self.items)

    @cached_property
    def by_sid(self) -> dict[str, tuple[str, ...]]:
        """The items of each semantic ID: several where IDs collide."""
        return grouped(("".join(tokens), item) for item, tokens in self.tokens.items())

    @cached_property
    def vocabulary(self) -> list[str]:
        """Each semantic-ID token once, level by level, within a level by its number."""
        seen = {(level, token) for tokens in self.tokens.values() for level, token in enumerate(tokens)}
        return list(dict.fromkeys(token for _, token in sorted(seen, key=lambda pair: (pair[0], _natural(pair[1])))))

    def with_tokens(self, tokens: Mapping[str, Sequence[str]]) -> Catalogue:
        """The same catalogue under these semantic IDs; raises BadInput unless every item, and no other, has one."""
        if missing := self.items.keys() - tokens.keys():
            raise BadInput(f"{len(missing)} items have no semantic ID, among them {sorted(missing)[:3]}.")
        if strange := tokens.keys() - self.items.keys():
            raise BadInput(f"{len(strange)} semantic IDs belong to no item: {sorted(strange)[:3]}.")
        for item, given in tokens.items():
            if why := ill_formed(given):
                raise BadInput(f"The semantic ID of item {item!r} cannot be used: {why}.")
        return replace(self, tokens={item: tuple(tokens[item]) for item in self.items})


def ill_formed(tokens: object) -> str:
    """What is wrong with the tokens of one semantic ID; empty where nothing is."""
    if not isinstance(tokens, Sequence) or isinstance(tokens, str) or not tokens:
        return f"it is no list of tokens: {str(tokens)[:40]!r}"
    for token in tokens:
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            return f"{str(token)[:40]!r} is no token like <a_1>"
    return ""


def popularity(interactions: Iterable[Interaction]) -> Counter[str]:
    """How often each item was chosen: each target once, and of each user the items that are no target of any row.

    Rows of one user repeat its history, cut at every position, so histories are not counted again; only what was
    chosen before the first target would be missed.
    """
    chosen: defaultdict[str, set[str]] = defaultdict(set)
    before: defaultdict[str, set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for row in interactions:
        counts[row.target] += 1
        chosen[row.user].add(row.target)
        before[row.user].update(row.history)
    for user, items in before.items():
        counts.update(sorted(items - chosen[user]))
    return counts


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The second of each pair under the first, in order."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in found.items()}


def one_line(text: str) -> str:
    """The text with one blank wherever it had blanks, tabs or line ends."""
    return " ".join(text.split())


def _natural(token: str) -> list[tuple[int, str]]:
    """Sorts <a_2> before <a_10>."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", token)]
