"""How strongly each layer is held back, beside the strength of the whole: one factor for each parameter."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast._errors import BadInput
from holdfast.params.depth import depth
from holdfast.params.inventory import Param
from holdfast.params.select import matched, parse

Layers = Mapping[str, float] | float | None
"""Factors by selection, or one number in (0, 1] by which the factor falls from each stage to the next one up."""


def coefficients(layers: Layers, params: Mapping[str, Param]) -> dict[str, float]:
    """The factor of each parameter, by path.

    A mapping of selections (as text) to factors: those that select a parameter multiply, and what none selects has 1.
    A number d: the embedding has 1, block i has d^(i + 1), and what stands above the blocks d^(blocks + 1), since the
    lower layers are the more general ones. None: 1 for all. Raises BadInput for a negative factor and for a d outside
    (0, 1], and UnmatchedSelect for a selection that matches nothing.
    """
    if isinstance(layers, Mapping):
        return _selected(layers, params)
    if layers is not None and not 0 < layers <= 1:
        raise BadInput(f"A factor from stage to stage is above 0 and at most 1, not {layers}.")
    return {path: float((1.0 if layers is None else layers) ** depth(param)) for path, param in params.items()}


def _selected(layers: Mapping[str, float], params: Mapping[str, Param]) -> dict[str, float]:
    factors = dict.fromkeys(params, 1.0)
    for text, factor in layers.items():
        if factor < 0:
            raise BadInput(f"The factor of {text} must not be negative, got {factor}.")
        for param in matched(parse(text), list(params.values())):
            factors[param.path] *= factor
    return factors
