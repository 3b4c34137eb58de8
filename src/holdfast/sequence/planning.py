"""The plan of a sequence: what trains, and per task the steps and tokens; no weights are loaded, nothing is written."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text as Words

from holdfast.params.plan import render_plan
from holdfast.recipe.planning import Plan, plan
from holdfast.sequence.schema import SequenceRecipe


def plans(recipe: SequenceRecipe) -> list[Plan]:
    """The plan of each task, as if it began from the original base; what is held back for control is counted in."""
    return [plan(recipe.of(place)) for place in range(len(recipe.tasks))]


def render_sequence_plan(recipe: SequenceRecipe, console: Console) -> None:
    """Print what trains and its memory, then a line per task."""
    made = plans(recipe)
    render_plan(made[0].freeze, console)
    table = Table("task", title=f"{len(made)} tasks, each from the model before", title_justify="left")
    for heading in ("rows", "steps", "tokens learnt from, at most", "replayed", "sampled"):
        table.add_column(heading, justify="right")
    for task, one in zip(recipe.tasks, made, strict=True):
        figures = (one.rows, one.steps, one.learnt, one.replayed, one.sampled)
        table.add_row(Words(task.name), *(f"{figure:,}" for figure in figures))
    whole = (sum(p.rows for p in made), sum(p.steps for p in made), sum(p.learnt for p in made))
    more = (sum(p.replayed for p in made), max(p.sampled for p in made))
    table.add_section()
    table.add_row("together", *(f"{figure:,}" for figure in (*whole, *more)))
    asked = {"joint": "as many steps again, on all tasks together", "single": "as many steps again, each task alone"}
    said = [f"{name}: {asked[name]}" for name in dict.fromkeys(recipe.references)]
    table.caption = Words("\n".join(["sampled rows are drawn from the base once, for all tasks", *said]))
    console.print(table)
