"""Where a model on the command line comes from: the run that left it, with its certificate and recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput
from holdfast.recipe.comparing import model_folder
from holdfast.recipe.loading import parse

CERTIFICATE, RECIPE = "certificate.json", "recipe.yaml"


@dataclass(frozen=True)
class Origin:
    """What a run's folder says about a model; all of it empty for a model that comes from no run.

    `checkpoint` is the name of a checkpoint on the way: the run's certificate is about its last model, not about that.
    """

    certificate: Mapping[str, Any] | None = None
    recipe: str | None = None
    checkpoint: str | None = None

    @property
    def base(self) -> str | None:
        """The model that the run began with, by the name that its recipe (else its certificate) gives."""
        told = parse(self.recipe, RECIPE).get("base") if self.recipe else None
        known = told or (self.certificate or {}).get("base", {}).get("name")
        return None if known is None else str(known)


def origin(name: str | Path) -> Origin:
    """The run that left a model: a run's folder, its `final/`, one of its checkpoints, or an export of one of these.

    Raises BadInput for a certificate that cannot be read.
    """
    place = Path(model_folder(name))
    on_the_way = re.fullmatch(r"checkpoint-\d+", place.name) is not None
    run = place.parent if on_the_way or place.name == "final" else place
    told = run / RECIPE
    return Origin(
        None if on_the_way else _certificate(run / CERTIFICATE),
        told.read_text("utf-8") if told.is_file() else None,
        place.name if on_the_way else None,
    )


def _certificate(file: Path) -> Mapping[str, Any] | None:
    if not file.is_file():
        return None
    try:
        found: Mapping[str, Any] = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise BadInput(
            f"{file} is not JSON ({error}). Take it away, and nothing is said about what was kept."
        ) from None
    return found
