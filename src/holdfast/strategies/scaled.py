"""Scaled: a learning rate of their own for some tensors."""

from __future__ import annotations

import math

from holdfast._errors import BadInput
from holdfast.params.inventory import Param
from holdfast.rule import Rule, rules
from holdfast.run import Run


@rules.register("scaled")
class Scaled(Rule):
    """The learning rate times `factor` (0 or more), with its schedule, for what `within` selects.

    `scaled: {factor: 16, within: '"*.lora_B.*"'}` is LoRA+ (Hayou et al. 2024, arXiv:2402.12354).
    """

    def __init__(self, factor: float = 10.0):
        if not (math.isfinite(factor) and factor >= 0):
            raise BadInput(f"scaled: factor multiplies the learning rate, 0 or more, not {factor}.")
        self.factor = factor

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        return learning_rate * self.factor
