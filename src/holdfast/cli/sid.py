"""Commands about semantic IDs: sid build and sid inspect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

import holdfast
from holdfast._errors import BadInput
from holdfast.cli.app import EXITS, Debug, app, console, say

if TYPE_CHECKING:  # each command asks `holdfast` for what it needs, so that --help does not wait for torch
    import holdfast.display
    import holdfast.recipe

sid = typer.Typer(
    help="Items as words of a model: semantic IDs built, learnt and recommended.", epilog=EXITS, no_args_is_help=True
)
app.add_typer(sid, name="sid")

Dataset = Annotated[str | None, typer.Option(help="One of several datasets in the folder.")]


@sid.command()
def build(
    folder: Annotated[Path, typer.Argument(help="The items: a folder with NAME.item.json or an info file.")],
    output: Annotated[Path, typer.Option(help="Where NAME.index.json and the codebooks go.")],
    dataset: Dataset = None,
    quantiser: Annotated[str, typer.Option(help="residual, balanced (codes of equal size) or rqvae.")] = "residual",
    levels: Annotated[int | None, typer.Option(help="Tokens of an ID; default: 3.", min=1)] = None,
    codes: Annotated[str | None, typer.Option(help="Codes of each level, or 64,256,256; default: 256.")] = None,
    embed: Annotated[
        str | None, typer.Option(help="tfidf (the default), a model's folder, or a .npy with a row for each item.")
    ] = None,
    fields: Annotated[
        str | None, typer.Option(help="What is embedded; default: title,description (also: brand,categories).")
    ] = None,
    shared: Annotated[
        str, typer.Option(help="Items that share an ID: move them apart, suffix a number to all, or keep them.")
    ] = "move",
    seed: Annotated[int, typer.Option(help="What is drawn follows from it.")] = 0,
    grow: Annotated[
        Path | None, typer.Option(help="An index whose items keep their IDs; new items get some.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Make semantic IDs for a catalogue from the words of its items, and say what they are worth."""
    recipes = holdfast.recipe
    holdfast.display.hush()
    with holdfast.display.Display(console) as display:
        found = recipes.build_ids(
            folder,
            output,
            dataset=dataset,
            quantiser=quantiser,
            levels=levels,
            codes=numbers(codes, "--codes"),
            embedding=embed,
            fields=listed(fields) or None,
            shared=cast(Literal["move", "suffix", "keep"], shared),
            seed=seed,
            old=grow,
            say=stages(display, "build"),
        )
    console.print(recipes.render_ids(found))
    console.print(f"Index: {found.index}   In a recipe: vocabulary: {{items: {output}}}", soft_wrap=True)


@sid.command()
def inspect(
    place: Annotated[Path, typer.Argument(help="An .index.json, or the folder of a catalogue.")],
    dataset: Dataset = None,
    debug: Debug = False,
) -> None:
    """Show what semantic IDs are worth, and what a catalogue holds."""
    recipes = holdfast.recipe
    found = recipes.inspected(place, dataset)
    if found.catalogue is not None:
        console.print(recipes.render_catalogue(found.catalogue))
    if len(found.ids.items):
        console.print(recipes.render_ids(found))
    else:
        say("These items have no semantic IDs yet: holdfast sid build.")


def stages(display: holdfast.display.Display, name: str) -> Callable[[str], None]:
    """A bar of that name, and what tells it what goes on."""
    return told(display.run(name))


def told(watcher: holdfast.display.Watcher) -> Callable[[str], None]:
    """What tells a bar what goes on."""
    return lambda text: watcher({"kind": "stage", "text": text})


def listed(text: str | None) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def numbers(text: str | None, option: str) -> int | list[int] | None:
    """A whole number, or several with commas between."""
    if text is None:
        return None
    try:
        found = [int(part) for part in listed(text)]
    except ValueError:
        raise BadInput(f"{option} takes whole numbers with commas between, not {text!r}.") from None
    if not found:
        raise BadInput(f"{option} takes at least one whole number.")
    return found[0] if len(found) == 1 else found
