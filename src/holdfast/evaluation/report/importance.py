"""The picture of importance: which parts of a model a score weighs most."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap

from holdfast._errors import BadInput
from holdfast.evaluation.report.drawing import picture_file, style, write
from holdfast.evaluation.report.movement import Part, heat_map

_LINE = 64  # characters across the picture


def importance_picture(parts: Mapping[Part, float], target: str | Path, title: str) -> Path:
    """Write a layer x component heat map of importance as a PNG or SVG; the colour is logarithmic.

    `parts` maps (component, block) to a figure, block None outside the blocks. Raises BadInput for another ending, and
    where all figures are 0.
    """
    target = picture_file(target)
    seen = [value for value in parts.values() if value > 0]
    if not seen:
        raise BadInput("Every part of this model has importance 0: there is nothing to draw. Look at the text.")
    with style():
        figure = heat_map(parts, min(seen), max(seen))
        scale = f"colour: {min(seen):.2g} (lightest) to {max(seen):.2g} (deepest), logarithmic"
        figure.suptitle("\n".join([*wrap(title, _LINE), scale]), x=0.01, ha="left", fontsize="medium")
        return write(figure, target)
