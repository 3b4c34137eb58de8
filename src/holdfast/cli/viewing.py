"""Commands that show and change nothing: inspect, advise, report and watch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import holdfast
from holdfast._errors import BadInput
from holdfast.cli.app import Debug, app, console, say

if TYPE_CHECKING:  # each command asks `holdfast` for what it needs, so that --help does not wait for torch
    import holdfast.display
    import holdfast.evaluation.report
    import holdfast.params.plan
    import holdfast.params.select
    import holdfast.recipe
    import holdfast.watching


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
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or the folders of sequences.")],
    output: Annotated[
        Path | None, typer.Option(help="A .html, .md or .json; default: report.html in the (first) run folder.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="html, md or json, where --output does not say it.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write one page (or Markdown, or JSON) about one or several runs, and print their table."""
    import holdfast.evaluation.report

    reports, target = holdfast.evaluation.report, _target(runs[0], output, form)
    if any(map(reports.is_sequence, runs)):
        written = reports.write_sequence_report(runs, target)
        console.print(reports.render_sequences(runs))
    else:
        written = reports.write_report(runs, target)
        console.print(reports.render_runs(runs))
    console.print(f"Report: {written}", soft_wrap=True)


def _target(first: Path, output: Path | None, form: str | None) -> Path:
    """Where a report goes: beside what it is about unless said otherwise, and never over it."""
    if output is not None:
        if form is not None and output.suffix != f".{form}":
            raise BadInput(f"--output {output} and --format {form} say different things; one of them is enough.")
        return output
    kind = form or "html"
    return first.with_name(f"{first.stem}-report.{kind}") if first.is_file() else first / f"report.{kind}"


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="The folder of a run or a sequence, which may be about to begin.")],
    web: Annotated[
        int | None, typer.Option(help="Serve it as a page at this port instead (0: any free one).", min=0, max=65535)
    ] = None,
    host: Annotated[str, typer.Option(help="The address that the page is served at.")] = "127.0.0.1",
    every: Annotated[float, typer.Option(help="Seconds between looks in the terminal.", min=0.1)] = 1.0,
    debug: Debug = False,
) -> None:
    """Show a run as it goes on, until it has ended: progress, losses, budgets, governor, alarms. It only reads."""
    import holdfast.watching

    try:
        if web is None:
            holdfast.watching.watch(run, console, every=every)
        else:
            _serve(run, web, host)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _serve(run: Path, port: int, host: str) -> None:
    watching = holdfast.watching
    with watching.Server(run, port, host) as server:
        if not watching.local(host):
            say(
                f"Whoever can reach {host} over the network can now read this run: its names, figures and notes. There "
                "is no password, and nothing is encrypted. Leave --host away to serve this machine alone."
            )
        console.print(f"Watching {run} at {server.url} until Ctrl-C.", soft_wrap=True)
        server.serve_forever()
