"""The recipes that come with Holdfast, on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

import holdfast
from holdfast._errors import UnknownName
from holdfast.cli.app import app, console

if TYPE_CHECKING:
    import holdfast.recipe

shelf = typer.Typer(help="The recipes that come with Holdfast.")
app.add_typer(shelf, name="recipes")


@shelf.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """The recipes that come with Holdfast; without a command, their list."""
    if context.invoked_subcommand is None:
        list_recipes()


@shelf.command("list")
def list_recipes() -> None:
    """Name the recipes, with the first line of each."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, text in holdfast.recipe.shipped().items():
        table.add_row(Text(name, style="bold", no_wrap=True), Text(text.splitlines()[0].lstrip("# ")))
    console.print(table)


@shelf.command("show")
def show_recipe(name: Annotated[str, typer.Argument(help="A name that `holdfast recipes list` gives.")]) -> None:
    """Print a recipe, to be saved and changed."""
    known = holdfast.recipe.shipped()
    if name not in known:
        raise UnknownName("shipped recipe called", name, known)
    print(known[name], end="")
