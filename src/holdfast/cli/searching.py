"""The command that looks for a recipe: search."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import holdfast
from holdfast.cli.app import Debug, app, console, say

if TYPE_CHECKING:  # each command asks `holdfast` for what it needs, so that --help does not wait for torch
    import holdfast.display
    import holdfast.search


class Third(StrEnum):
    """What may be minimised beside forgetting."""

    NONE = "none"
    BYTES = "bytes"
    TIME = "time"


@app.command()
def search(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Such as train.max_steps=150")] = None,
    trials: Annotated[int, typer.Option(help="Recipes to try, the given one among them.", min=1)] = 20,
    minutes: Annotated[float, typer.Option(help="What is going on then stops at its next step.")] = 30.0,
    seed: Annotated[int | None, typer.Option(help="Of what is drawn; default: the recipe's.", min=0)] = None,
    folder: Annotated[Path | None, typer.Option(help="Default: search/ in the recipe's output.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in that folder.")] = False,
    third: Annotated[Third, typer.Option(help="Minimise trained bytes, or the time of a step, as well.")] = Third.NONE,
    space: Annotated[Path | None, typer.Option(help="A YAML file that narrows what is searched.")] = None,
    debug: Debug = False,
) -> None:
    """Look for the recipe that learns most inside the budget, among variations of one; write it as best.yaml."""
    searches = holdfast.search
    holdfast.display.hush()
    narrowed = searches.read_space(space) if space is not None else None
    with holdfast.display.Display(console, runs=trials) as display:
        found = searches.search(
            recipe,
            overrides or (),
            trials=trials,
            minutes=minutes,
            seed=seed,
            folder=folder,
            resume=resume,
            third=third.value,
            space=narrowed,
            progress=_Told(display),
        )
    console.print(searches.render_found(found))
    console.print(searches.headline(found), soft_wrap=True, markup=False)
    console.print(f"Picture: {found.folder / 'front.png'}   All of it: {found.folder / 'search.md'}", soft_wrap=True)
    if found.best is not None:
        console.print(f"Train it: holdfast train {found.folder / 'best.yaml'}", soft_wrap=True)
    if found.interrupted:
        say("Interrupted; all that was done is kept. Go on with the same command and --resume.")
        raise typer.Exit(130)


class _Told:
    """Follows a search: one bar for the run in hand, and a line for each that has ended."""

    def __init__(self, display: holdfast.display.Display):
        self.display, self.tried = display, set[int]()
        self.task = display.bars.add_task("starting", total=None, figures="")

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Take what the search tells."""
        match line:
            case {"kind": "stage", "text": text}:
                self.display.bars.update(self.task, description=str(text))
            case {"kind": "trial"}:
                self.display.bars.reset(self.task, total=line["steps"], description=f"trial {line['number']}")
            case {"kind": "step", "step": step}:
                self.display.bars.update(self.task, completed=step)
            case {"kind": "done" | "failed"}:
                self._ended(line)

    def _ended(self, line: Mapping[str, Any]) -> None:
        from holdfast.evaluation.report.headline import change, nats

        what = f"trial {line['number']}, {line['steps']} steps"
        if line["kind"] == "done":
            what += f": gain {nats(line['gain'])}, forgetting {change(line['forgetting'])}"
        else:
            what += f": failed. {line['reason']}"
        self.display.console.print(what, soft_wrap=True, markup=False, highlight=False)
        self.tried.add(line["number"])
        self.display.bars.update(self.display.whole, completed=len(self.tried), description="all recipes")
