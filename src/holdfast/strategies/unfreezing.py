"""Unfreezing: training starts at the top, and the lower blocks thaw one after another."""

from __future__ import annotations

from holdfast._errors import BadInput
from holdfast.params.depth import below_top
from holdfast.rule import Rule, rules
from holdfast.run import Run


@rules.register("unfreezing")
class Unfreezing(Rule):
    """Head, final norm and the `layers` highest blocks move at first; every `every` steps, `layers` more thaw.

    The embedding thaws last, and a head that is tied to it with it. What has not thawed has no gradient and no
    optimiser state. The stage follows from the number of completed steps alone, so a resumed run is in the right one.
    Howard & Ruder (2018), arXiv:1801.06146, section 3.3.
    """

    def __init__(self, every: int = 100, layers: int = 1):
        if every < 1 or layers < 1:
            raise BadInput(f"unfreezing needs every >= 1 and layers >= 1, not every={every} and layers={layers}.")
        self.every, self.layers = every, layers

    def holds(self, run: Run) -> frozenset[str]:
        thawed = self.layers * (1 + run.step // self.every)
        return frozenset(name for name, param in run.params.items() if below_top(param) > thawed)
