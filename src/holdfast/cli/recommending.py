"""Commands that recommend items: sid train, sid evaluate and sid recommend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import holdfast
from holdfast._errors import BadInput
from holdfast.cli import training
from holdfast.cli.app import Debug, console, say
from holdfast.cli.sid import Dataset, listed, numbers, sid, stages, told

if TYPE_CHECKING:  # each command asks `holdfast` for what it needs, so that --help does not wait for torch
    import holdfast.display
    import holdfast.evaluation.report
    import holdfast.recipe
    import holdfast.sid_demo

MODEL = "A run's folder, its final/, an export, or any model (then with --data)."
Data = Annotated[
    Path | None, typer.Option(help="The folder of the items, in place of the recipe's.", show_default=False)
]
Beams = Annotated[int, typer.Option(help="Paths of the search; exact where no more IDs are left.", min=1)]
Task = Annotated[
    str | None,
    typer.Option(help="The words that ask: history, titles_to_id or preference; default: the first that was learnt."),
]
Cases = Annotated[int | None, typer.Option(help="Rank so many cases, drawn by the seed; default: all.", min=1)]
Seen = Annotated[bool, typer.Option("--exclude-seen", help="Leave out the items of the history.")]
Batch = Annotated[int | None, typer.Option(help="Prompts at a time; default: as memory allows.", min=1)]
Language = Annotated[bool, typer.Option(help="Measure what is kept of the old texts as well.")]


@sid.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Such as train.max_steps=50 or freeze_llm=true")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="As `holdfast train --dry-run`.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")] = False,
    split: Annotated[str, typer.Option(help="What it is evaluated on.")] = "test",
    task: Task = None,
    beams: Beams = 50,
    cases: Cases = None,
    exclude_seen: Seen = False,
    language: Language = True,
    debug: Debug = False,
) -> None:
    """Carry a recipe out, and rank the test cases with what it left: `holdfast train`, then `sid evaluate`."""
    from holdfast.recipe.folder import first  # a room's own modules do not come by being asked for

    recipes = holdfast.recipe
    loaded = recipes.load(recipe, overrides or ())
    task = recipes.check_recommends(loaded, split, task)
    if dry_run:
        training.train(recipe, overrides, dry_run=True, resume=resume)
        return
    holdfast.display.hush()
    with holdfast.display.Display(console) as display:
        watcher = display.run(Path(loaded.output).name)
        result = recipes.run(loaded, resume=resume, progress=watcher)
        training.finished(result.certificate, result.folder, "a checkpoint was saved", "sid train")
        if not first():
            return  # of several processes one ranks and tells
        ranked = recipes.evaluate_items(
            recipes.open_recommender(result.folder),
            split=split,
            task=task,
            beams=beams,
            cases=cases,
            seed=loaded.seed,
            exclude_seen=exclude_seen,
            language=language,
            say=told(watcher),
        )
        written = recipes.write_recommendations(ranked, result.folder)
    if stopped := (result.certificate or {}).get("stopped"):
        say(f"The run was stopped before its end. {stopped}")
    console.print(holdfast.evaluation.report.render_table([result.folder]))
    _ranked(ranked, written)
    training.told(result.folder, result.verdict)


@sid.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="A folder of items and who chose what; default: made up.")] = None,
    items: Annotated[int, typer.Option(help="Take so many of its items, those chosen most often.", min=20)] = 300,
    output: Annotated[Path, typer.Option(help="Where items, IDs, runs and the report go.")] = Path("runs/sid-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps: a look, not a result.")] = False,
    debug: Debug = False,
) -> None:
    """Give items words from their titles, teach them to the embedded model, and recommend."""
    holdfast.display.hush()
    try:
        holdfast.sid_demo.sid_demo(output, console, data=data, items=items, quick=quick)
    except KeyboardInterrupt:
        say("Interrupted; nothing of this demo was kept.")
        raise typer.Exit(130) from None


@sid.command()
def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL)],
    data: Data = None,
    dataset: Dataset = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    task: Task = None,
    k: Annotated[str, typer.Option(help="How many recommendations are looked at.")] = "1,3,5,10,20,50",
    beams: Beams = 50,
    cases: Cases = None,
    seed: Annotated[int, typer.Option(help="The cases that are drawn, and the intervals, follow from it.")] = 0,
    exclude_seen: Seen = False,
    batch_size: Batch = None,
    language: Language = True,
    output: Annotated[
        Path | None, typer.Option(help="A folder for table and picture; default: the run's.", show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Rank the next item in every case: the model beside baselines that need none, and the language that it kept."""
    recipes = holdfast.recipe
    ks = numbers(k, "--k")
    holdfast.display.hush()
    with holdfast.display.Display(console) as display:
        tell = stages(display, Path(model).name)
        tell("loading")
        opened = recipes.open_recommender(model, data=data, dataset=dataset)
        place = output or opened.folder
        if place is None:
            raise BadInput(f"{model} is no folder here. Say where the figures go: --output DIR.")
        found = recipes.evaluate_items(
            opened,
            split=split,
            task=task,
            ks=[ks] if isinstance(ks, int) else ks or (),
            beams=beams,
            cases=cases,
            seed=seed,
            exclude_seen=exclude_seen,
            batch_size=batch_size,
            language=language,
            say=tell,
        )
        written = recipes.write_recommendations(found, place, replace=False)
    _ranked(found, written)


@sid.command()
def recommend(
    model: Annotated[str, typer.Argument(help=MODEL)],
    user: Annotated[
        list[str] | None, typer.Option(help="A user of the catalogue, by what they chose last. Repeatable.")
    ] = None,
    items: Annotated[
        list[str] | None, typer.Option(help="A history of item ids, oldest first: 12,55,7. Repeatable.")
    ] = None,
    titles: Annotated[
        list[str] | None,
        typer.Option(help="A history of titles, oldest first: 'red cup | blue plate'. Repeatable."),
    ] = None,
    k: Annotated[int, typer.Option(help="How many items.", min=1)] = 10,
    task: Task = None,
    beams: Beams = 50,
    exclude_seen: Seen = False,
    data: Data = None,
    dataset: Dataset = None,
    debug: Debug = False,
) -> None:
    """Name the likeliest next items after a history: of a user, of items, or of titles; several at once."""
    recipes = holdfast.recipe
    if not (user or items or titles):
        raise BadInput("There is nobody to recommend to. Give --user ID, --items 12,55,7 or --titles 'red cup'.")
    if titles and task not in (None, "titles_to_id"):
        raise BadInput(f"Titles are asked by titles_to_id, not by {task}. Leave --task out, or give --items.")
    holdfast.display.hush()
    opened = recipes.open_recommender(model, data=data, dataset=dataset)
    asked = [
        *(recipes.of_user(opened, one, task) for one in user or ()),
        *(recipes.of_items(opened, listed(one), task) for one in items or ()),
        *(recipes.of_titles(opened, one.split("|")) for one in titles or ()),
    ]
    for query, found in zip(
        asked, recipes.recommend_items(opened, asked, k=k, beams=beams, exclude_seen=exclude_seen), strict=True
    ):
        console.print(recipes.render_recommended(query.name, found))


def _ranked(found: dict[str, Any], written: Path) -> None:
    console.print(holdfast.recipe.render_ranking(found))
    console.print(f"Figures: {written}   Picture: {written.with_suffix('.png')}", soft_wrap=True)
