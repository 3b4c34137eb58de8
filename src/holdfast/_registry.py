"""One small registry for every room: a name, the thing, and its knobs taken from the signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from holdfast._errors import BadInput, UnknownName

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Named things of one kind (rules, metrics, methods); the signature of each is its schema.

    >>> shapes = Registry("shape")
    >>> @shapes.register("square")
    ... def square(side: float = 1.0) -> float:
    ...     return side * side
    >>> shapes.build("square", {"side": 3.0})
    9.0
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Enter a class or function under a name."""

        def enter(thing: T) -> T:
            self._entries[name] = thing
            return thing

        return enter

    def __getitem__(self, name: str) -> T:
        """The thing of that name; raises UnknownName with the nearest one."""
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def knobs(self, name: str) -> dict[str, inspect.Parameter]:
        """The arguments that the thing takes, by name."""
        return dict(inspect.signature(self[name]).parameters)

    def build(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Call the thing with checked arguments; raises UnknownName for a knob it does not have."""
        knobs = self.knobs(name)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in knobs.values())
        for key in arguments:
            if key not in knobs and not open_ended:
                raise UnknownName(f"argument of {self.kind} {name!r} called", key, knobs)
        missing = [
            k
            for k, p in knobs.items()
            if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and k not in arguments
        ]
        if missing:
            raise BadInput(f"The {self.kind} {name!r} needs {', '.join(missing)}.")
        return self[name](**arguments)

    def made(self, given: str | Mapping[str, Any]) -> Any:
        """The thing as a recipe says it: its name, or `{name: {argument: value}}`; raises BadInput for anything else.

        >>> Registry("shape").made({"square": {}, "circle": {}})
        Traceback (most recent call last):
        holdfast._errors.BadInput: A shape is its name, or one name and its settings, not {'square': {}, 'circle': {}}.
        """
        named = {given: None} if isinstance(given, str) else dict(given)
        (name, settings), *more = list(named.items()) or [("", None)]
        if not name or more or not isinstance(settings, Mapping | None):
            raise BadInput(f"A {self.kind} is its name, or one name and its settings, not {given!r}.")
        return self.build(name, settings or {})
