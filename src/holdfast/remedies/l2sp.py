"""L2-SP: every weight is held back towards its start value, all alike."""

from __future__ import annotations

from holdfast._errors import BadInput
from holdfast.before import Base
from holdfast.remedies.coefficients import Layers, coefficients
from holdfast.remedies.pull import pull, refuse
from holdfast.rule import Kind, Move, Rule, rules
from holdfast.run import Run


@rules.register("l2sp")
class L2SP(Rule):
    """Minimises ½ strength |w - base|² besides the loss, as a pull after each optimiser step.

    On LoRA the product s·BA is held back. About 100 to 300 times the strength of the penalty form under AdamW has the
    same effect, since a pull is not divided by the gradient's scale. `layers` are factors of layers, see
    `coefficients`. Li et al. (2018), arXiv:1802.01483.
    """

    kind = Kind.PULL

    def __init__(self, strength: float = 10.0, layers: Layers = None):
        if strength < 0:
            raise BadInput(f"l2sp: strength must not be negative, got {strength}.")
        self.strength: float = strength
        self.layers = layers
        self._factors: dict[str, float] = {}
        self._base: Base | None = None

    def begin(self, run: Run) -> None:
        refuse(run, "l2sp")
        self.restore(run, None, None)

    def restore(self, run: Run, prepared: object, state: object) -> None:
        self._base, self._factors = run.base, coefficients(self.layers, run.params)

    def update(self, run: Run, move: Move) -> None:
        assert self._base is not None
        pull(move, self._base.values, move.learning_rate * self.strength * self._factors[move.param.path])

    def end(self, run: Run) -> None:
        self._base = None
