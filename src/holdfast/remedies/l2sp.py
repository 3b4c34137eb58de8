"""L2-SP: every weight is held back towards its start value, all alike."""

from __future__ import annotations

from holdfast._errors import BadInput
from holdfast.before import Base
from holdfast.remedies.pull import pull, refuse
from holdfast.rule import Kind, Move, Rule, rules
from holdfast.run import Run


@rules.register("l2sp")
class L2SP(Rule):
    """Minimises ½ strength |w - base|² besides the loss, as a pull after each optimiser step.

    On LoRA the product s·BA is held back. About 100 to 300 times the strength of the penalty form under AdamW has the
    same effect, since a pull is not divided by the gradient's scale. Li et al. (2018), arXiv:1802.01483.
    """

    kind = Kind.PULL

    def __init__(self, strength: float = 10.0):
        if strength < 0:
            raise BadInput(f"l2sp: strength must not be negative, got {strength}.")
        self.strength: float = strength
        self._base: Base | None = None

    def begin(self, run: Run) -> None:
        refuse(run, "l2sp")
        self._base = run.base

    def restore(self, run: Run, prepared: object, state: object) -> None:
        self._base = run.base

    def update(self, run: Run, move: Move) -> None:
        assert self._base is not None
        pull(move, self._base.values, move.learning_rate * self.strength)

    def end(self, run: Run) -> None:
        self._base = None
