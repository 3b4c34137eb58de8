"""Frozen: the selected tensors do not move at all."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast._errors import UnknownName
from holdfast.params.select import Select, everything, matched, parse
from holdfast.rule import Kind, Rule, State, rules
from holdfast.run import Run


@rules.register("frozen")
class Frozen(Rule):
    """What is selected moves by exactly 0.0, against momentum and weight decay too, wherever the rule stands.

    Whole tensors get no gradient and no optimiser state, so that their memory is saved while they are held. `select` is
    a selection, its text form, or a list of paths, which may be empty; without one, nothing moves. `freeze` and `thaw`
    change it while the run goes on. Raises UnmatchedSelect, and UnknownName for a path, in `begin`.

    >>> Frozen("embedding | layers(0:2)").kind.name
    'MASK'
    """

    kind = Kind.MASK

    def __init__(self, select: Select | str | Iterable[str] | None = None):
        self.select: Select | None = everything
        self._changes: dict[str, bool] = {}
        self._names: dict[str, str] | None = None
        self._held: frozenset[str] = frozenset()
        if isinstance(select, str):
            self.select = parse(select)
        elif callable(select):
            self.select = select
        elif select is not None:
            self.select = None
            self.freeze(select)

    def freeze(self, paths: Iterable[str]) -> None:
        """Hold these tensors from the next step on; tied names are known too. Raises UnknownName."""
        self._change(list(paths), True)

    def thaw(self, paths: Iterable[str]) -> None:
        """Let these tensors move from the next step on, also selected ones; the latest call counts for each."""
        self._change(list(paths), False)

    def begin(self, run: Run) -> None:
        self._names = {alias: name for name, param in run.params.items() for alias in param.paths}
        chosen = [] if self.select is None else matched(self.select, list(run.params.values()))
        self._selected = frozenset(p.path for p in chosen)
        changes, self._changes = self._changes, {}
        for path, held in changes.items():
            self._change([path], held)
        self._held = self._now()

    def state(self) -> State:
        return {"changes": dict(self._changes)}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        self._changes = dict(state["changes"])
        self.begin(run)

    def holds(self, run: Run) -> frozenset[str]:
        return self._held

    def _change(self, paths: list[str], held: bool) -> None:
        if self._names is None:  # before the run, names cannot be known
            self._changes = {**{n: h for n, h in self._changes.items() if n not in paths}, **dict.fromkeys(paths, held)}
            return
        for path in paths:
            if path not in self._names:
                raise UnknownName("trainable parameter", path, self._names)
        self._changes |= {self._names[path]: held for path in paths}
        self._held = self._now()

    def _now(self) -> frozenset[str]:
        frozen = {name for name, held in self._changes.items() if held}
        return (self._selected | frozen) - (self._changes.keys() - frozen)
