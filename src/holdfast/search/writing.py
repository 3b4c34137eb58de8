"""The files of a search: search.json, search.md, front.png and best.yaml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.evaluation.plain import finite, write_json
from holdfast.recipe.loading import dump, load
from holdfast.recipe.spelling import spelt_out
from holdfast.search.candidates import carried
from holdfast.search.picture import front_picture
from holdfast.search.space import Space
from holdfast.search.storage import Candidate, Rung, plain
from holdfast.search.words import headline, markdown, state

if TYPE_CHECKING:
    from holdfast.search.outcome import Found


def write_all(found: Found, values: Mapping[str, Any], space: Space) -> None:
    """Write all that a search leaves; best.yaml is taken away where nothing is inside the budget any more."""
    write_json(as_plain(found), found.folder / "search.json")
    best = found.folder / "best.yaml"
    if found.best is None:
        best.unlink(missing_ok=True)
    else:
        recipe = best_recipe(values, space, found.candidates[found.best], found.folder)
        _write(best, f"# {headline(found)}\n{recipe}")
    _write(found.folder / "search.md", markdown(found))
    if found.whole:
        front_picture(found, found.folder / "front.png")


def best_recipe(values: Mapping[str, Any], space: Space, candidate: Candidate, folder: Path) -> str:
    """A candidate as a complete recipe: all steps, the governor as the given one has it, its run in the folder."""
    params = candidate.params if candidate.number else {}
    raw = {**spelt_out(carried(values, space, params)), "output": str(folder / "best")}
    load(raw)
    return dump(raw)


def _write(file: Path, text: str) -> None:
    half = file.with_name(f".{file.name}.part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, file)


def as_plain(found: Found) -> dict[str, Any]:
    """All that was found as plain values."""
    whole = found.comparison
    told: dict[str, Any] = {
        "steps": found.steps,
        "third": found.third,
        "limits": dict(found.limits),
        "interrupted": found.interrupted,
        "default": 0,
        "best": found.best,
        "front": found.front,
        "comparison": None
        if whole is None
        else {
            "gain": vars(whole.gain),
            "rises": {name: vars(rise) for name, rise in whole.rises.items()},
            "verdicts": dict(zip(("best", "default"), whole.verdicts, strict=True)),
            "better": whole.better,
        },
        "volumes": None if found.volumes is None else dict(zip(("default", "all"), found.volumes, strict=True)),
        "importance": found.importance,
        "proxies": {place: {**vars(part), "pull": part.pull} for place, part in found.parts.items()},
        "guess": found.guess,
        "rungs": found.rungs,
        "refused": found.refused,
        "candidates": [_candidate(found, candidate) for candidate in found.candidates.values()],
    }
    return dict(finite(told))


def _candidate(found: Found, candidate: Candidate) -> dict[str, Any]:
    return {
        "number": candidate.number,
        "params": candidate.params,
        "state": state(found, candidate),
        "failed": candidate.failed,
        "proxy": candidate.proxy,
        "inside": None if not found.limits or not candidate.rungs else candidate.rungs[-1].choosing.fits(found.limits),
        "rungs": [_rung(rung) for rung in candidate.rungs],
    }


def _rung(rung: Rung) -> dict[str, Any]:
    return {**vars(rung), "choosing": plain(rung.choosing), "judging": plain(rung.judging)}
