"""Commands that train: train, demo, grid and dial."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import holdfast
from holdfast.cli.app import Debug, app, console, say

if TYPE_CHECKING:  # each command asks `holdfast` for what it needs, so that --help does not wait for torch
    import holdfast.demo
    import holdfast.dial
    import holdfast.display
    import holdfast.evaluation.report
    import holdfast.recipe
    import holdfast.sequence


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Such as train.max_steps=50 or keep.budget=0.05")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, what it costs and what would stop it; train nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")] = False,
    debug: Debug = False,
) -> None:
    """Carry a recipe out: a run folder with model, log, certificate, samples and report; with `tasks`, a sequence."""
    recipes = holdfast.recipe
    values = recipes.values(recipe, overrides or ())
    if "tasks" in values:
        _sequence(values, dry_run, resume)
        return
    loaded = recipes.load(values)
    if dry_run:
        recipes.render_run_plan(recipes.plan(loaded), console)
        recipes.check_folder(loaded, resume=resume)
        return
    holdfast.display.hush()
    with holdfast.display.Display(console) as display:
        result = recipes.run(loaded, resume=resume, progress=display.run(Path(loaded.output).name))
    finished(result.certificate, result.folder, "a checkpoint was saved")
    if stopped := (result.certificate or {}).get("stopped"):
        say(f"The run was stopped before its end. {stopped}")
    console.print(holdfast.evaluation.report.render_table([result.folder]))
    told(result.folder, result.verdict)


def _sequence(values: dict[str, Any], dry_run: bool, resume: bool) -> None:
    sequence, report = holdfast.sequence, holdfast.evaluation.report
    loaded = sequence.load(values)
    if dry_run:
        sequence.render_sequence_plan(loaded, console)
        sequence.check_folder(loaded, resume=resume)
        return
    holdfast.display.hush()
    with holdfast.display.Display(console) as display:
        outcome = sequence.run(loaded, resume=resume, progress=display.run(Path(loaded.output).name))
    finished(outcome.matrix, outcome.folder, "what was done is kept")
    console.print(report.render_sequences([outcome.folder]))
    told(outcome.folder, outcome.verdict)


def finished(result: object, folder: Path, kept: str, command: str = "train") -> None:
    """Leave, and say how to go on, where a run has no result because it was interrupted."""
    if result is None:
        say(f"Interrupted; {kept}. Go on: holdfast {command} {folder / 'recipe.yaml'} --resume")
        raise typer.Exit(130)


def told(folder: Path, verdict: str | None) -> None:
    console.print(f"Model: {folder / 'final'}   Report: {folder / 'report.html'}", soft_wrap=True)
    _judged(verdict)


def _judged(verdict: str | None) -> None:
    if verdict in ("broken", "undecided"):
        raise typer.Exit(3)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the three runs and the report go.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps: a look, not a result.")] = False,
    debug: Debug = False,
) -> None:
    """Spend the same steps three ways on the embedded model: plain, with remedies, governed."""
    holdfast.display.hush()
    try:
        finished = holdfast.demo.demo(output, console, quick=quick)
    except KeyboardInterrupt:
        finished = False
    if not finished:
        say("Interrupted; nothing of this demo was kept.")
        raise typer.Exit(130)


@app.command()
def grid(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    rule: Annotated[str, typer.Option(help="The rule of it whose strength is tried, such as ewc.")],
    strengths: Annotated[str, typer.Option(help="Such as 10,100,1000")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Such as train.max_steps=50")] = None,
    debug: Debug = False,
) -> None:
    """Carry a recipe out once for each strength of a rule, without governor: what each learns, and what it keeps."""
    holdfast.display.hush()
    tried = holdfast.recipe.numbers(strengths)
    with holdfast.display.Display(console) as display:
        pairs = holdfast.recipe.grid(recipe, rule, tried, overrides or (), progress=display.run(rule))
    console.print(holdfast.recipe.render_grid(pairs, rule))


@app.command()
def rates(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Such as method.name=lora")] = None,
    steps: Annotated[int, typer.Option(help="Steps from the lowest rate to the highest.", min=10)] = 100,
    output: Annotated[Path, typer.Option(help="The picture.")] = Path("rates.png"),
    debug: Debug = False,
) -> None:
    """Find a learning rate for a recipe: where its new text is learnt fastest, and where kept texts begin to suffer."""
    import holdfast.evaluation.report

    holdfast.display.hush()
    loaded = holdfast.recipe.load(recipe, overrides or ())
    with holdfast.display.Display(console) as display:
        found = holdfast.recipe.find_rates(loaded, count=steps, progress=display.run("rates")).told()
    for line in holdfast.recipe.rates_told(found):
        console.print(line, soft_wrap=True)
    console.print(f"Picture: {holdfast.evaluation.report.rates_picture(found, output)}", soft_wrap=True)


@app.command()
def dial(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run, or of a task of a sequence.")],
    budget: Annotated[
        float | None, typer.Option(help="Allowed rise of perplexity, 0.02 for 2 %; default: the run's own.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Blocks may go back one after the other as well.")] = False,
    points: Annotated[int, typer.Option(help="Places on the frontier, beside its start.", min=1)] = 10,
    output: Annotated[Path | None, typer.Option(help="Where it goes; default: dial/ in the run's folder.")] = None,
    debug: Debug = False,
) -> None:
    """Go back from a run's model towards the one before, as far as a budget asks; draw the frontier between them."""
    import holdfast.dial

    dials = holdfast.dial
    holdfast.display.hush()
    own = holdfast.sequence.texts_of(run) if holdfast.evaluation.report.is_sequence(run.parent) else None
    with holdfast.display.Display(console) as display:
        found = dials.dial(
            run, budget=budget, points=points, layers=layers, output=output, texts=own, progress=display.run(run.name)
        )
    console.print(dials.render_dialled(found))
    console.print(f"Picture: {found.folder / 'frontier.png'}", soft_wrap=True)
    if found.verdict is not None:
        console.print(f"Model: {found.folder / 'final'}", soft_wrap=True)
    _judged(found.verdict)
