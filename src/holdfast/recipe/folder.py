"""Whether a run can begin in its folder, or go on there; the run and its dry run ask, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast import checkpoint
from holdfast._errors import BadInput
from holdfast.recipe.loading import parse, resolved
from holdfast.recipe.schema import Recipe


def check_folder(recipe: Recipe, folder: str | Path | None = None, *, resume: bool = False) -> None:
    """Raise BadInput where a run would stop before it begins; `folder` is the recipe's `output` unless told.

    A new run needs a folder that is not there or empty; one that is resumed needs its recipe.yaml, begun with the same
    values, a complete checkpoint, and no certificate.
    """
    folder = Path(folder or recipe.output)
    if resume:
        _check_resumable(recipe, folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(
            f"{folder} is already there. Go on with that run by --resume, choose another folder (output=runs/name), or "
            "take that one away."
        )


def first() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def _check_resumable(recipe: Recipe, folder: Path) -> None:
    told = folder / "recipe.yaml"
    if not told.is_file():
        raise BadInput(f"There is no run in {folder} to go on with: it has no recipe.yaml. Start it without --resume.")
    if (folder / "certificate.json").is_file():
        raise BadInput(f"The run in {folder} came to its end; its certificate is there. There is nothing to resume.")
    then, now = parse(told.read_text("utf-8"), str(told)), resolved(recipe)
    if changed := [key for key in now if now[key] != then.get(key)]:
        raise BadInput(
            f"The run in {folder} was begun with another {', '.join(f'`{key}`' for key in changed)}. Go on with what "
            f"it was begun with, holdfast train {told} --resume, or start a new run in another folder."
        )
    if checkpoint.newest(folder) is None:
        raise BadInput(f"{folder} holds no complete checkpoint to go on from. Take the folder away and start again.")
