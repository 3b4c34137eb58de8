"""Commands that measure models and change nothing: evaluate, compare and suites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

import holdfast
from holdfast._errors import BadInput
from holdfast.cli.app import Debug, app, console, say

if TYPE_CHECKING:  # each command asks `holdfast` for what it needs, so that --help does not wait for torch
    import holdfast.display
    import holdfast.evaluation.report
    import holdfast.evaluation.suites
    import holdfast.recipe

suites = typer.Typer(help="What models are scored on: shipped suites, and your own.", no_args_is_help=True)
app.add_typer(suites, name="suites")

COUNTED = ("choice_accuracy", "exact_match", "constraints", "refusal")
SUITE = "A shipped suite, `all`, `en` or `zh`; a suite's folder or YAML file; or any data. Repeatable."
Suites = Annotated[list[str] | None, typer.Option("--suite", help=SUITE)]
Learnt = Annotated[list[str] | None, typer.Option("--learnt", help="A suite of what was trained for. Repeatable.")]
Noise = Annotated[bool, typer.Option(help="Score the base twice, to know what measuring itself changes.")]
Drift = Annotated[bool, typer.Option(help="Compare answers to open prompts, where a suite of style is among them.")]


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="`tiny`, a folder (a run's too), a checkpoint, an adapter or a Hub id.")],
    tuned: Annotated[str | None, typer.Argument(help="What was made of it; then MODEL is the base.")] = None,
    suite: Suites = None,
    learnt: Learnt = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text file, folder or data set, tiny/NAME, or `self`. Repeatable.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="For --text: the model to compare with.")] = None,
    length: Annotated[int, typer.Option(help="For --text: tokens in a row.", min=2)] = 128,
    rows: Annotated[int, typer.Option(help="For --text: rows of each, at most.", min=2)] = 1024,
    noise: Noise = True,
    drift: Drift = True,
    output: Annotated[Path | None, typer.Option(help="A folder for evaluation.json and reports about it.")] = None,
    debug: Debug = False,
) -> None:
    """Score a model on suites, or what was made of it beside it: what was lost and gained, and how sure that is.

    With --text: loss and perplexity on texts, paired with a base where one is given.
    """
    holdfast.display.hush()
    asked = bool(suite or learnt)
    if output is not None and (tuned is None or not asked):
        raise BadInput("--output writes about two models on suites: give MODEL, TUNED and --suite.")
    if not asked and not text:
        raise BadInput("Nothing to evaluate on: name suites (--suite all; `holdfast suites list`) or texts (--text).")
    recipes = holdfast.recipe
    if text:
        before = base or (model if tuned else None)
        scores = recipes.score(tuned or model, text, base=before, length=length, rows=rows)
        console.print(recipes.render_scores(scores))
    if asked and tuned is None:
        console.print(recipes.render_baseline(*recipes.alone(model, suite or (), learnt or (), say=_say)))
    elif asked and tuned is not None:
        _beside(model, [tuned], suite, learnt, noise, drift, output)


@app.command()
def compare(
    base: Annotated[str, typer.Argument(help="The model that the others were made of.")],
    tuned: Annotated[list[str], typer.Argument(help="Models made of it: folders, checkpoints, adapters, Hub ids.")],
    suite: Suites = None,
    learnt: Learnt = None,
    noise: Noise = True,
    drift: Drift = True,
    output: Annotated[Path | None, typer.Option(help="A folder; each model's report goes into one of its own.")] = None,
    debug: Debug = False,
) -> None:
    """Score several models beside the base they were made of, and say which is best by what it kept and learnt."""
    holdfast.display.hush()
    _beside(base, tuned, suite or ["all"], learnt, noise, drift, output)


def _beside(
    base: str,
    tuned: list[str],
    suite: list[str] | None,
    learnt: list[str] | None,
    noise: bool,
    drift: bool,
    output: Path | None,
) -> None:
    import holdfast.evaluation.report

    comparing, reports, found = holdfast.recipe, holdfast.evaluation.report, []
    made = comparing.comparisons(base, tuned, suite or (), learnt=learnt or (), noise=noise, drift=drift, say=_say)
    for number, one in enumerate(made, start=1):
        found.append(one)
        console.print(comparing.render_comparison(one))
        if output is not None:
            place = output if len(tuned) == 1 else output / f"{number}-{Path(one.model).name}"
            written = comparing.write_evaluation(one, place)
            about = place if (place / "certificate.json").is_file() else written
            for ending in reports.FORMATS:
                reports.write_report([about], place / f"report{ending}")
            console.print(f"Report: {place / 'report.html'}", soft_wrap=True)
    if len(found) > 1:
        console.print(comparing.render_comparisons(found))


@suites.command("list")
def list_suites() -> None:
    """Name the shipped suites, with what each measures."""
    import holdfast.evaluation.suites

    room = holdfast.evaluation.suites
    table = Table.grid(padding=(0, 2, 0, 0))
    for name in room.shipped():
        settings = room.load_suite(name).settings
        about = Text(settings.about.split(". ")[0].rstrip(".") + ".")
        table.add_row(Text(name, style="bold", no_wrap=True), Text(settings.dimension or ""), about)
    console.print(table)


@suites.command("show")
def show_suite(
    name: Annotated[str, typer.Argument(help="A shipped suite, a suite's folder or YAML file, or any data.")],
    examples: Annotated[int, typer.Option(help="Examples to print.", min=0)] = 3,
) -> None:
    """Print what a suite asks: its settings and some examples."""
    import holdfast.evaluation.suites

    suite = holdfast.evaluation.suites.load_suite(name)
    table = Table.grid(padding=(0, 2, 0, 0))
    known = suite.settings.model_dump(exclude_none=True, exclude_defaults=True)
    counted = {} if suite.settings.kind == "lm_eval" else {"examples": len(suite.records)}
    for key, value in {"name": suite.name, **known, **counted}.items():
        table.add_row(Text(key, style="bold"), Text(str(value)))
    console.print(table)
    for i in range(min(examples, *counted.values()) if counted else 0):
        prompt, right = suite.shown(i)
        console.print(Text(f"\n{prompt}", style="dim"), Text(f"→ {right}"))


@suites.command("check")
def check_suite(
    names: Annotated[list[str], typer.Argument(help="Suites: folders, YAML files, shipped names or data.")],
) -> None:
    """Read suites whole, and say how many examples each has and how small a drop it can show."""
    import holdfast.evaluation.change
    import holdfast.evaluation.suites

    room = holdfast.evaluation.suites
    faults = 0
    for name in names:
        try:
            loaded = room.load_suites([name])
            for suite in loaded:
                suite.check()
        except BadInput as error:
            say(f"{name}: {error}")
            faults += 1
            continue
        _tell(loaded)
    if faults:
        raise typer.Exit(2)


def _tell(loaded: list[holdfast.evaluation.suites.Suite]) -> None:
    items_for = holdfast.evaluation.change.items_for
    for suite in loaded:
        if suite.settings.kind == "lm_eval":
            console.print(f"{suite.name}: the task {suite.settings.task} of lm-evaluation-harness", soft_wrap=True)
            continue
        n = len(suite.records)
        metric, knobs = suite.metric
        settings = f" ({', '.join(f'{key} {value}' for key, value in knobs.items())})" if knobs else ""
        drop = next((d / 100 for d in range(1, 101) if items_for(d / 100, max(0.1, d / 100)) <= n), 1.0)
        console.print(f"{suite.name}: {n} examples, {metric}{settings}", end="", soft_wrap=True, markup=False)
        console.print(f"; where one answer in ten flips, it shows a drop of {drop:.0%}" if metric in COUNTED else "")


def _say(line: str) -> None:
    say(f"{line} …")
