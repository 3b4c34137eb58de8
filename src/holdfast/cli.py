"""The command line: train, demo, inspect, evaluate, report and recipes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

import holdfast
from holdfast._errors import BadInput, HoldfastError, UnknownName

if TYPE_CHECKING:  # each command asks `holdfast` for what it needs, so that --help does not wait for torch
    import holdfast.demo
    import holdfast.dial
    import holdfast.display
    import holdfast.evaluation.report
    import holdfast.params.plan
    import holdfast.params.select
    import holdfast.recipe
    import holdfast.sequence

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
shelf = typer.Typer(help="The recipes that come with Holdfast.")
app.add_typer(shelf, name="recipes")

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and what the loggers say.")]

console, complaints = Console(), Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and leave with its exit code (see EXITS)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given
    _listen(logging.DEBUG if debug else logging.WARNING)
    try:
        app(args=given, prog_name="holdfast")
    except HoldfastError as error:
        if debug:
            complaints.print_exception()
        _say(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            complaints.print_exception()
        fault = f"{type(error).__name__}: {error}"
        _say(f"This is a fault in Holdfast, not in what you gave it: {fault} (--debug shows where)")
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {holdfast.__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Teach a language model something new without losing what it knew, and prove it."""


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
    if result.certificate is None:
        told = result.folder / "recipe.yaml"
        _say(f"Interrupted; a checkpoint was saved. Go on: holdfast train {told} --resume")
        raise typer.Exit(130)
    console.print(holdfast.evaluation.report.render_table([result.folder]))
    console.print(f"Model: {result.folder / 'final'}   Report: {result.folder / 'report.html'}")
    if result.verdict in ("broken", "undecided"):
        raise typer.Exit(3)


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
    if outcome.matrix is None:
        told = outcome.folder / "recipe.yaml"
        _say(f"Interrupted; what was done is kept. Go on: holdfast train {told} --resume")
        raise typer.Exit(130)
    console.print(report.render_sequences([outcome.folder]))
    console.print(f"Model: {outcome.folder / 'final'}   Report: {outcome.folder / 'report.html'}", soft_wrap=True)
    if outcome.verdict in ("broken", "undecided"):
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
        _say("Interrupted; nothing of this demo was kept.")
        raise typer.Exit(130)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="`tiny`, a folder, or a Hub id.")],
    select: Annotated[
        str | None, typer.Option(help="What to freeze (or weigh), such as 'embedding | layers(0:2)'.")
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="Weigh its parts: fisher, fisher_sampled, fisher_exact, gradient, magnitude, mas, movement or "
            "sensitivity."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="The text that importance is measured on; see evaluate.")] = None,
    base: Annotated[str | None, typer.Option(help="The model that movement is measured from.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of the text, at most.", min=1)] = 64,
    length: Annotated[int, typer.Option(help="Tokens in a row.", min=2)] = 128,
    picture: Annotated[Path | None, typer.Option(help="Draw a layer x component heat map: a .png or .svg.")] = None,
    debug: Debug = False,
) -> None:
    """Show what a model is made of and what freezing a part of it saves (from its config), or what matters in it."""
    if importance is not None:
        _weigh(model, importance, picture, data=data, base=base, select=select, rows=rows, length=length)
        return
    if any(option is not None for option in (data, base, picture)):
        raise BadInput("--data, --base and --picture go with --importance, such as `--importance fisher`.")
    import holdfast.params.plan  # a room's own modules do not come by being asked for

    planning = holdfast.params.plan
    built = planning.from_config(holdfast.base.load_config(model))
    chosen = None if select is None else holdfast.params.select.parse(select)
    planning.render_plan(planning.plan(built, chosen), console)


def _weigh(model: str, score: str, picture: Path | None, **options: Any) -> None:
    import holdfast.evaluation.report

    if picture is not None:
        holdfast.evaluation.report.picture_file(picture)  # refused before the minutes that measuring may take
    holdfast.display.hush()
    with holdfast.display.counted(console, score, options["rows"]) as progress:
        weighed = holdfast.recipe.weigh(model, score, progress=progress, **options)
    console.print(holdfast.recipe.render_weighed(weighed))
    if picture is not None:
        drawn = holdfast.evaluation.report.importance_picture(weighed.parts, picture, weighed.about)
        console.print(f"Picture: {drawn}", soft_wrap=True)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="`tiny`, a folder (a run's final/ too), or a Hub id.")],
    text: Annotated[list[str], typer.Option(help="A text file, folder or data set, tiny/NAME, or `self`; repeatable.")],
    base: Annotated[str | None, typer.Option(help="The model to compare with, sequence by sequence.")] = None,
    length: Annotated[int, typer.Option(help="Tokens in a row.", min=2)] = 128,
    rows: Annotated[int, typer.Option(help="Rows of each text, at most.", min=2)] = 1024,
    debug: Debug = False,
) -> None:
    """Measure loss and perplexity with 95 % intervals, paired with a base where one is given."""
    holdfast.display.hush()
    scores = holdfast.recipe.score(model, text, base=base, length=length, rows=rows)
    console.print(holdfast.recipe.render_scores(scores))


@app.command()
def advise(
    model: Annotated[str, typer.Argument(help="`tiny`, a folder (a run's final/ too), or a Hub id.")],
    data: Annotated[str, typer.Option(help="The new text; see evaluate.")],
    old: Annotated[str | None, typer.Option(help="What it has to know still; default: text that it makes up.")] = None,
    length: Annotated[int, typer.Option(help="Tokens in a row.", min=2)] = 128,
    rows: Annotated[int, typer.Option(help="Rows of each text, at most.", min=4)] = 64,
    debug: Debug = False,
) -> None:
    """Say how much to freeze for a new text: how alike they are is measured, what follows from it is the guide's."""
    holdfast.display.hush()
    advice = holdfast.recipe.advise(model, data, old=old, length=length, rows=rows)
    console.print(holdfast.recipe.render_advice(advice))


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
    if found.verdict in ("broken", "undecided"):
        raise typer.Exit(3)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or the folders of sequences.")],
    output: Annotated[
        Path | None, typer.Option(help="The page; default: report.html in the (first) run folder.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write one page about one or several runs, and print their table."""
    import holdfast.evaluation.report

    reports, target = holdfast.evaluation.report, output or runs[0] / "report.html"
    if any(map(reports.is_sequence, runs)):
        written = reports.write_sequence_report(runs, target)
        console.print(reports.render_sequences(runs))
    else:
        written = reports.write_report(runs, target)
        console.print(reports.render_table(runs))
    console.print(f"Report: {written}")


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


def _say(paragraph: str) -> None:
    complaints.print(Text(paragraph))


def _listen(level: int) -> None:
    """What loggers under `holdfast` say goes to the terminal."""
    logger = logging.getLogger("holdfast")
    logger.setLevel(level)
    logger.handlers = [RichHandler(level, complaints, show_time=False, show_path=False)]
    logger.propagate = False


if __name__ == "__main__":
    main()
