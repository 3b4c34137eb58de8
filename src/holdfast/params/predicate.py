"""What a selection is made of: immutable predicates on parameters that combine with & | ~ and print as text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import ClassVar

from holdfast.params.inventory import Param

Predicate = Callable[[Param], bool]


class Select(ABC):
    """A predicate on parameters. Immutable; equal when written alike; `str` gives text that `parse` reads back.

    >>> str((Component("attention") | Path("*.up_proj.*")) & ~Layers(-2, None))
    '(attention | "*.up_proj.*") & ~layers(-2:)'
    """

    binds: ClassVar[int] = 4  # how strongly the text form holds together: | 1, & 2, ~ 3, the rest 4

    @abstractmethod
    def __call__(self, param: Param) -> bool: ...

    def __and__(self, other: Select) -> Select:
        return Both(self, other)

    def __or__(self, other: Select) -> Select:
        return Either(self, other)

    def __invert__(self) -> Select:
        return Not(self)

    def _inside(self, binds: int) -> str:
        return str(self) if self.binds >= binds else f"({self})"


@dataclass(frozen=True)
class Everything(Select):
    """Every parameter."""

    def __call__(self, param: Param) -> bool:
        return True

    def __str__(self) -> str:
        return "everything"


@dataclass(frozen=True)
class Component(Select):
    """Parameters that are this component under any of their names: a tied embedding is the head as well."""

    name: str

    def __call__(self, param: Param) -> bool:
        return self.name in param.components

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Path(Select):
    """Parameters one of whose names matches a glob (`*`, `?`, `[...]`) as a whole; dots are ordinary letters."""

    glob: str

    def __call__(self, param: Param) -> bool:
        return any(fnmatchcase(name, self.glob) for name in param.paths)

    def __str__(self) -> str:
        return '"' + self.glob.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Percent:
    """A share of the blocks, 0 to 100, rounded down to whole blocks."""

    value: Decimal

    def __str__(self) -> str:
        return f"{self.value:f}%"


Bound = int | Percent


@dataclass(frozen=True)
class Layers(Select):
    """Blocks start <= layer < stop of each stack, bottom to top, as slices count: negative from the top, None to it."""

    start: Bound
    stop: Bound | None

    def __call__(self, param: Param) -> bool:
        if param.layer is None:
            return False
        stop = param.n_layers if self.stop is None else _block(self.stop, param.n_layers)
        return _block(self.start, param.n_layers) <= param.layer < stop

    def beyond(self, n_layers: int) -> bool:
        """Whether a bound names a block that a model of so many does not have; shares and blocks from the top never do.

        >>> Layers(0, 5).beyond(5), Layers(0, 9).beyond(5), Layers(-9, None).beyond(5)
        (False, True, False)
        """
        return any(isinstance(bound, int) and bound > n_layers for bound in (self.start, self.stop))

    def __str__(self) -> str:
        if self.start == 0 and isinstance(self.stop, Percent):
            return f"layers({self.stop})"
        return f"layers({self.start}:{'' if self.stop is None else self.stop})"


@dataclass(frozen=True)
class Not(Select):
    """What the inner selection leaves out."""

    inner: Select
    binds: ClassVar[int] = 3

    def __call__(self, param: Param) -> bool:
        return not self.inner(param)

    def __str__(self) -> str:
        return f"~{self.inner._inside(3)}"


@dataclass(frozen=True)
class Both(Select):
    """What both selections name."""

    left: Select
    right: Select
    binds: ClassVar[int] = 2

    def __call__(self, param: Param) -> bool:
        return self.left(param) and self.right(param)

    def __str__(self) -> str:
        return f"{self.left._inside(2)} & {self.right._inside(3)}"


@dataclass(frozen=True)
class Either(Select):
    """What at least one of the selections names."""

    left: Select
    right: Select
    binds: ClassVar[int] = 1

    def __call__(self, param: Param) -> bool:
        return self.left(param) or self.right(param)

    def __str__(self) -> str:
        return f"{self.left._inside(1)} | {self.right._inside(2)}"


def _block(bound: Bound, n_layers: int) -> int:
    if isinstance(bound, Percent):
        return int(n_layers * bound.value / 100)
    return bound if bound >= 0 else n_layers + bound
