"""Frozen: the selected tensors do not move at all."""

from __future__ import annotations

from holdfast.params.select import Select, everything, matched, parse
from holdfast.rule import Kind, Rule, rules
from holdfast.run import Run


@rules.register("frozen")
class Frozen(Rule):
    """What is selected moves by exactly 0.0, against momentum and weight decay too, wherever the rule stands.

    Whole tensors get no gradient and no optimiser state, so that their memory is saved while they are held.
    `select` is a selection or its text form; without one, nothing moves. Raises UnmatchedSelect in `begin`.

    >>> Frozen("embedding | layers(0:2)").kind.name
    'MASK'
    """

    kind = Kind.MASK

    def __init__(self, select: Select | str | None = None):
        self.select = parse(select) if isinstance(select, str) else select or everything

    def begin(self, run: Run) -> None:
        self._held = frozenset(p.path for p in matched(self.select, list(run.params.values())))

    def restore(self, run: Run, prepared: object, state: object) -> None:
        self.begin(run)

    def holds(self, run: Run) -> frozenset[str]:
        return self._held
