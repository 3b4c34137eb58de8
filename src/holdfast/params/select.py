"""Which parameters? Selections are made by name, written as text, and never match nothing in silence."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import NoReturn

from holdfast._errors import BadInput, UnknownName, UnmatchedSelect
from holdfast.params.inventory import COMPONENTS, Param
from holdfast.params.predicate import (
    Both,
    Bound,
    Component,
    Either,
    Everything,
    Layers,
    Not,
    Path,
    Percent,
    Predicate,
    Select,
)

__all__ = ["Predicate", "Select", "component", "everything", "layers", "matched", "parse", "path"]

everything: Select = Everything()


def component(name: str) -> Select:
    """The parameters of a component; raises UnknownName with the nearest one."""
    if name not in COMPONENTS:
        raise UnknownName("component", name, COMPONENTS)
    return Component(name)


def path(glob: str) -> Select:
    """The parameters with a name that matches the glob as a whole, tied names included."""
    return Path(glob)


def layers(start: int | str, stop: int | str | None = None) -> Select:
    """The blocks from `start` up to, not including, `stop`, bottom to top; in encoder-decoder models of both stacks.

    Bounds are block numbers, negative ones counted from the top, or shares such as "25%", rounded down. One share alone
    means the blocks below it: `layers("50%")` is the lower half, `layers(-2)` the two highest blocks.
    Raises BadInput for a bound that is neither.
    """
    low = _bound(start)
    if stop is None:
        return Layers(0, low) if isinstance(low, Percent) else Layers(low, None)
    return Layers(low, _bound(stop))


def parse(text: str) -> Select:
    """Read a selection from text; raises BadInput that points at the column.

    Components and `everything` are bare words, globs are quoted, blocks are `layers(0:6)`, `layers(-2:)`,
    `layers(50%)` or `layers(25%:75%)`; `~` binds before `&`, `&` before `|`; parentheses group.

    >>> parse("embedding | layers(0:2) & ~norm") == component("embedding") | layers(0, 2) & ~component("norm")
    True
    """
    return _Parser(text).whole()


def matched(select: Predicate, params: Sequence[Param]) -> list[Param]:
    """The parameters that a selection names, in order; raises UnmatchedSelect with the nearest names if there are none.

    A slip of the pen hides easily in a larger selection: each pattern in it and each side of a `|` has to match too,
    and `layers(0:9)` is refused by a model of five blocks (in encoder-decoder models the longer stack counts).
    """
    patterns = list(_patterns(select))
    parts: list[Predicate] = [*(p for p in patterns if isinstance(p, Path)), *_sides(select), select]
    for part in dict.fromkeys(parts):
        if not any(part(param) for param in params):
            raise UnmatchedSelect(_unmatched(part, params))
    blocks = max((param.n_layers for param in params), default=0)
    for part in patterns:
        if isinstance(part, Layers) and part.beyond(blocks):
            raise UnmatchedSelect(
                f"{part} reaches beyond the model, which has {blocks} block{'s' * (blocks != 1)}, counted from 0. "
                "For all from a block on leave the upper bound away, layers(0:); layers(-2:) counts from the top."
            )
    return [param for param in params if select(param)]


def _bound(value: int | str) -> Bound:
    if isinstance(value, int):
        return value
    if not re.fullmatch(r"\d+(\.\d+)?%", value) or Decimal(value[:-1]) > 100:
        raise BadInput(f"{value!r} is no bound of layers: write a block number, or a share from 0% to 100%.")
    return Percent(Decimal(value[:-1]))


def _patterns(select: Predicate) -> Iterator[Predicate]:
    match select:
        case Path() | Layers():
            yield select
        case Both(left, right) | Either(left, right):
            yield from (*_patterns(left), *_patterns(right))
        case Not(inner):
            yield from _patterns(inner)


def _sides(select: Predicate) -> Iterator[Predicate]:
    match select:
        case Either(left, right):
            yield from (*_sides(left), *_sides(right))
        case _:
            yield select


def _unmatched(part: Predicate, params: Sequence[Param]) -> str:
    counts = Counter(name for param in params for name in param.components)
    parts = ", ".join(f"{name} ({counts[name]})" for name in COMPONENTS if counts[name])
    top = max((param.n_layers for param in params), default=0) - 1
    blocks = f"the blocks are 0 to {top}" if top >= 0 else "there are no blocks"
    hint = _nearest(part.glob, params) if isinstance(part, Path) else f"There are {parts or 'none'}; {blocks}."
    return f"The selection {part} matches none of the {len(params)} parameters. {hint}"


def _nearest(glob: str, params: Sequence[Param]) -> str:
    """A mended glob that does match, or the names most like it."""
    names = [name for param in params for name in param.paths]
    words = sorted({word for name in names for word in name.split(".")})
    mended = glob
    for word in {w for w in re.split(r"[.*?\[\]]+", glob) if w and w not in words}:
        mended = mended.replace(word, next(iter(difflib.get_close_matches(word, words, n=1)), word))
    for attempt in (f"{glob}.*", f"*{glob}", f"*{glob}*", mended, f"{mended}.*", f"*{mended}*"):
        found = [name for name in names if fnmatchcase(name, attempt)]
        if glob.strip("*") and found:
            return f'Did you mean "{attempt}"? It matches {len(found)}, the first of them {found[0]}.'
    return f"The nearest names are {', '.join(difflib.get_close_matches(glob, names, n=3, cutoff=0.0))}."


class _Parser:
    """Recursive descent over tokens (kind, text, column counted from 1); every rule leaves `at` behind what it read."""

    TOKEN = re.compile(
        r"""\s* (?: (?P<word>[A-Za-z_]\w*) | (?P<glob>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
        | (?P<number>-?\d+(?:\.\d+)?%?) | (?P<mark>[&|~():]) | (?P<bad>\S) | (?P<end>$) )""",
        re.VERBOSE | re.DOTALL,
    )

    def __init__(self, text: str):
        self.text = text
        found = [(match.lastgroup or "", match) for match in self.TOKEN.finditer(text)]
        self.tokens = [(kind, match[kind], match.start(kind) + 1) for kind, match in found]
        self.at = 0

    def whole(self) -> Select:
        select = self.union()
        if self.tokens[self.at][0] != "end":
            self.fail("expected & or | or the end here")
        return select

    def union(self) -> Select:
        select = self.intersection()
        while self.accept("|"):
            select = select | self.intersection()
        return select

    def intersection(self) -> Select:
        select = self.term()
        while self.accept("&"):
            select = select & self.term()
        return select

    def term(self) -> Select:
        if self.accept("~"):
            return ~self.term()
        if self.accept("("):
            select = self.union()
            self.expect(")")
            return select
        kind, text, _ = self.tokens[self.at]
        if kind == "glob":
            self.at += 1
            return Path(re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL))
        if kind == "word":
            return self.word(text)
        return self.fail(f"expected a component, layers(...) or a quoted pattern{self.quotes()}")

    def word(self, text: str) -> Select:
        if text not in (*COMPONENTS, "layers", "everything"):
            near = difflib.get_close_matches(text, (*COMPONENTS, "layers", "everything"), n=1)
            hint = f"nearest is {near[0]}" if near else f"there are {', '.join(COMPONENTS)}"
            self.fail(f"{text!r} is no component ({hint}); a pattern on the path is written in quotes{self.quotes()}")
        self.at += 1
        if text == "layers":
            return self.blocks()
        return everything if text == "everything" else Component(text)

    def blocks(self) -> Select:
        self.expect("(")
        start = self.bound()
        if not self.accept(":"):
            if not isinstance(start, Percent):
                self.fail("blocks are a range such as 0:6, 3:4 or -2:, or a share such as 50%")
            self.expect(")")
            return Layers(0, start)
        stop = self.bound()
        self.expect(")")
        return Layers(0 if start is None else start, stop)

    def bound(self) -> Bound | None:
        kind, text, _ = self.tokens[self.at]
        if kind != "number":
            return None
        try:
            bound = _bound(text if text.endswith("%") else int(text))
        except (BadInput, ValueError):
            self.fail("a bound is a block number, or a share from 0% to 100%")
        self.at += 1
        return bound

    def accept(self, mark: str) -> bool:
        kind, text, _ = self.tokens[self.at]
        self.at += (kind, text) == ("mark", mark)
        return (kind, text) == ("mark", mark)

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            self.fail(f"expected {mark} here")

    def quotes(self) -> str:
        """How to write what stands here, where it looks like a pattern whose quotes a shell or YAML took away."""
        column = self.tokens[self.at][2]
        found = re.match(r"[^\s&|~()\"']+", self.text[column - 1 :])
        if found is None or not set(found[0]) & set("*?[."):
            return ""
        return f" (quotes of its own, inside those that a shell or YAML takes away: '\"{found[0]}\"')"

    def fail(self, why: str) -> NoReturn:
        column = self.tokens[self.at][2]
        line, pointer = re.sub(r"\s", " ", self.text), " " * (column - 1) + "^"
        raise BadInput(f"Cannot read the selection: at column {column}, {why}.\n    {line}\n    {pointer}")
