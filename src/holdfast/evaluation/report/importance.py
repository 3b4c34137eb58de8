"""The picture of importance: which parts of a model a score weighs most."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from holdfast._errors import BadInput
from holdfast.evaluation.report.drawing import picture_file, style, write
from holdfast.evaluation.report.movement import Part, heat_map


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
        said = f"{title}\nfrom {min(seen):.2g} (lightest) to {max(seen):.2g} (deepest), logarithmic"
        figure.axes[0].set_title(said, loc="left", fontsize="medium")
        return write(figure, target)
