"""What all commands share: the application, what it writes to, and how it complains."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

import holdfast

EXITS = """Exit codes: 0 all went well · 1 a fault of Holdfast itself · 2 something given cannot be used ·
3 the certificate does not hold · 4 training had to stop (the last admitted weights are kept) · 130 interrupted."""

app = typer.Typer(
    name="holdfast",
    help="Teach a language model something new without losing what it knew, and prove it.",
    epilog=EXITS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and what the loggers say.")]

console, complaints = Console(), Console(stderr=True)


def say(paragraph: str) -> None:
    """Something that the user should know and that is no result."""
    complaints.print(Text(paragraph))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {holdfast.__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Teach a language model something new without losing what it knew, and prove it."""
