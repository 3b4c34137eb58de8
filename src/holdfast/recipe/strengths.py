"""A small grid over the strength of one rule: what each strength learns, and what it keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text as Words

from holdfast._errors import BadInput
from holdfast.recipe.callbacks import Progress
from holdfast.recipe.loading import load
from holdfast.recipe.running import run
from holdfast.rule import rules


@dataclass(frozen=True)
class Pair:
    """What one strength learnt and kept, in nats per token with 95 % intervals, by the name of the text.

    `gain` is the fall of the loss on what is learnt, `rises` the rises on what is kept.
    """

    strength: float
    folder: Path
    gain: Mapping[str, Any]
    rises: Mapping[str, Mapping[str, Any]]


def numbers(text: str) -> list[float]:
    """Strengths as the command line says them; raises BadInput.

    >>> numbers("1,10, 1e3")
    [1.0, 10.0, 1000.0]
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"{text!r} are no strengths. Write numbers with commas between them, such as 10,100.") from None


def grid(
    recipe: str | Path | Mapping[str, Any],
    rule: str,
    strengths: Sequence[float],
    overrides: Sequence[str] = (),
    *,
    progress: Progress | None = None,
) -> list[Pair]:
    """Carry a recipe out once for each strength of one of its rules, below its `output`, and read the certificates.

    The governor is left out, since it would turn the strengths itself: `keep.govern` is false. Runs that came to their
    end before are read, and not done again. Raises BadInput for a rule without a strength, and whatever a run raises.
    """
    if "strength" not in rules.knobs(rule):
        raise BadInput(f"The rule {rule!r} has no strength to try; ewc, l2sp, distill and others have.")
    if not strengths or len(set(strengths)) < len(strengths):
        raise BadInput("A grid needs strengths that differ, such as 10,100,1000.")
    return [_pair(recipe, rule, strength, overrides, progress) for strength in strengths]


def _pair(
    recipe: str | Path | Mapping[str, Any],
    rule: str,
    strength: float,
    overrides: Sequence[str],
    progress: Progress | None,
) -> Pair:
    asked = [*overrides, f"rules.{rule}.strength={strength!r}", "keep.govern=false"]
    loaded = load(recipe, asked)
    folder = Path(loaded.output) / f"{rule}-{strength:g}"
    if not (folder / "certificate.json").is_file():
        run(load(recipe, [*asked, f"output={json.dumps(str(folder))}"]), progress=progress)
    told = json.loads((folder / "certificate.json").read_text("utf-8"))
    return Pair(strength, folder, told["learnt"][0], {kept["text"]: kept for kept in told["kept"]})


def render_grid(pairs: Sequence[Pair], rule: str) -> Table:
    """The pairs as a table for the terminal."""
    table = Table(f"strength of {rule}")
    for header in (f"{pairs[0].gain['text']} learnt", *(f"{name} lost" for name in pairs[0].rises)):
        table.add_column(Words(header), justify="right")
    for pair in pairs:
        cells = [_cell(pair.gain, "gain"), *(_cell(rise, "rise") for rise in pair.rises.values())]
        table.add_row(f"{pair.strength:g}", *map(Words, cells))
    table.caption = Words("nats per token [95 % interval]")
    return table


def _cell(told: Mapping[str, Any], key: str) -> str:
    if told[key] is None:
        return "not finite"
    known = None not in (told["low"], told["high"])
    return f"{told[key]:+.4f}" + (f" [{told['low']:+.4f}, {told['high']:+.4f}]" if known else " [one text: unknown]")
