"""Layerwise: the deeper a tensor lies, the lower its learning rate."""

from __future__ import annotations

from holdfast._errors import BadInput
from holdfast.params.depth import below_top
from holdfast.params.inventory import Param
from holdfast.rule import Rule, rules
from holdfast.run import Run


@rules.register("layerwise")
class Layerwise(Rule):
    """The learning rate times `decay` once for each stage below the head (0 < decay <= 1).

    Head and final norm keep the full rate, the last block has decay, the one below it decay², and the embedding
    decay^(blocks + 1), as in BEiT (arXiv:2106.08254). ULMFiT's discriminative fine-tuning (arXiv:1801.06146) divides by
    2.6 from layer to layer: decay = 0.385.
    """

    def __init__(self, decay: float = 0.9):
        if not 0 < decay <= 1:
            raise BadInput(f"layerwise: decay is a factor for each layer, 0 < decay <= 1, not {decay}.")
        self.decay = decay

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        return learning_rate * float(self.decay ** below_top(param))
