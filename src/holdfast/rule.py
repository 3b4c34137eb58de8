"""The one idea: a Rule has a say in a training run; freezing, anchors, replay, monitor and governor are all one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from torch import Tensor

from holdfast._errors import BadInput
from holdfast._registry import Registry
from holdfast.params.inventory import Param
from holdfast.params.select import Select

if TYPE_CHECKING:
    from holdfast.run import Run

Batch = dict[str, Tensor]
Window = list[Batch]
State = Mapping[str, Any]

REPLAYED = "replayed"
"""Key of a batch that says per row (bool [rows]) whether it is replayed; hosts take it out before the model sees it."""

HOOKS = ("batch", "penalty", "holds", "rate", "update", "after")


class Kind(IntEnum):
    """When a rule's `update` is asked: pulls first, then scalings, then masks; masks have the last word.

    What waits only puts off what the others left of a movement.
    """

    PULL = 0
    SCALE = 1
    MASK = 2
    WAIT = 3


@dataclass
class Move:
    """One parameter around one optimiser step; a rule edits `after` in place.

    `after` and `before` are the local tensors (a shard under FSDP2); `before` is there only for rules that say
    `looks_back`. `partner` is the other factor where the parameter is one factor of a LoRA product.
    """

    param: Param
    after: Tensor
    before: Tensor | None
    partner: Tensor | None
    learning_rate: float


class Rule:
    """A say in a training run. Override what you need; the rest changes nothing.

    `strength` is the one knob that a governor may turn (None: not tunable; 0: the rule is skipped).

    >>> class Halve(Rule):
    ...     kind, looks_back = Kind.SCALE, True
    ...     def update(self, run, move):
    ...         move.after.lerp_(move.before, 0.5)
    """

    strength: float | None = None
    kind: Kind = Kind.SCALE
    looks_back: bool = False
    closing: int = 0
    """Rules that change weights in `end` do so after those of a lower number."""

    corrects: bool = False
    """Whether `after` still moves weights; such rules are asked first, so that the others see where the step ended."""

    def begin(self, run: Run) -> None:
        """Before the first step of a run, never again; in evaluation mode and a random state of its own."""

    def batch(self, run: Run, window: Window) -> Window:
        """What is learnt from: the micro-batches of one optimiser step, before their items are counted."""
        return window

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor | None:
        """What is minimised besides the loss: a scalar for this micro-batch, already times `strength`."""
        return None

    def holds(self, run: Run) -> frozenset[str]:
        """Paths of whole tensors that must not move in this step; they get no gradient at all."""
        return frozenset()

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        """How fast: the learning rate of this parameter in this step, given the scheduler's and earlier rules' one."""
        return learning_rate

    def update(self, run: Run, move: Move) -> None:
        """What may move, and how far: edit `move.after` in place."""

    def after(self, run: Run) -> None:
        """Look and decide, after each optimiser step."""

    def end(self, run: Run) -> None:
        """After the last step, also when the run failed."""

    def prepared(self) -> State:
        """What `begin` made and nothing changes (anchors, importance, replay rows); written once per run."""
        return {}

    def state(self) -> State:
        """What changes during the run; written at each checkpoint, brought back by a rollback."""
        return {}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        """On resume instead of `begin`, with what both gave; on rollback with `prepared` None."""

    def wants(self, param: Param) -> bool:
        """Whether `rate` and `update` are to be asked about this parameter."""
        return True

    def hooks(self) -> frozenset[str]:
        """The names of the hooks that this rule really has."""
        return frozenset(h for h in HOOKS if getattr(type(self), h) is not getattr(Rule, h))


rules: Registry[type[Rule]] = Registry("rule")
"""Every rule by the name that recipes use."""


class Wrapper(Rule):
    """Forwards everything to the wrapped rule; its open gate is narrowed by `_open` and `wants`."""

    def __init__(self, rule: Rule):
        self.rule = rule

    @property
    def strength(self) -> float | None:
        return self.rule.strength

    @strength.setter
    def strength(self, value: float | None) -> None:
        self.rule.strength = value

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return self.rule.kind

    @property
    def looks_back(self) -> bool:  # type: ignore[override]
        return self.rule.looks_back

    @property
    def closing(self) -> int:  # type: ignore[override]
        return self.rule.closing

    @property
    def corrects(self) -> bool:  # type: ignore[override]
        return self.rule.corrects

    def hooks(self) -> frozenset[str]:
        return self.rule.hooks()

    def wants(self, param: Param) -> bool:
        return self.rule.wants(param)

    def begin(self, run: Run) -> None:
        self.rule.begin(run)

    def batch(self, run: Run, window: Window) -> Window:
        return self.rule.batch(run, window) if self._open(run.step + 1) else window

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor | None:
        return self.rule.penalty(run, batch, outputs) if self._open(run.step + 1) else None

    def holds(self, run: Run) -> frozenset[str]:
        return self.rule.holds(run) if self._open(run.step + 1) else frozenset()

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        return self.rule.rate(run, param, learning_rate) if self._open(run.step + 1) else learning_rate

    def update(self, run: Run, move: Move) -> None:
        if self._open(run.step + 1):
            self.rule.update(run, move)

    def after(self, run: Run) -> None:
        if self._open(run.step):
            self.rule.after(run)

    def end(self, run: Run) -> None:
        self.rule.end(run)

    def prepared(self) -> State:
        return self.rule.prepared()

    def state(self) -> State:
        return self.rule.state()

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        self.rule.restore(run, prepared, state)

    def _open(self, number: int) -> bool:
        """Whether the rule speaks in optimiser step `number` (counted from 1)."""
        return True


class Every(Wrapper):
    """The rule speaks in every n-th optimiser step only."""

    def __init__(self, n: int, rule: Rule):
        super().__init__(rule)
        if n < 1:
            raise BadInput(f"Every needs a number of steps of at least 1, not {n}.")
        self.n = n

    def _open(self, number: int) -> bool:
        return number % self.n == 0


class During(Wrapper):
    """The rule speaks only while `first <= completed optimiser steps < last`."""

    def __init__(self, first: int, last: int, rule: Rule):
        super().__init__(rule)
        if not 0 <= first < last:
            raise BadInput(f"During needs 0 <= first < last, not first={first} and last={last}.")
        self.first, self.last = first, last

    def _open(self, number: int) -> bool:
        return self.first < number <= self.last


class Within(Wrapper):
    """The rule moves, or holds, only the selected parameters."""

    def __init__(self, select: Select, rule: Rule):
        super().__init__(rule)
        spread = rule.hooks() & {"batch", "penalty"}
        if spread:
            through = " and ".join(sorted(spread))
            raise BadInput(
                f"Within narrows what may move, but {type(rule).__name__} works through its {through}, "
                "which touches every parameter. Use it without `within`."
            )
        self.select = select

    def wants(self, param: Param) -> bool:
        return self.select(param) and self.rule.wants(param)

    def holds(self, run: Run) -> frozenset[str]:
        return frozenset(n for n in self.rule.holds(run) if self.select(run.params[n]))
