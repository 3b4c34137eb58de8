"""What a run's monitor said by the way: alarms, forecasts, and what watching cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from holdfast.evaluation.report.content import Block, Cell, Heading, Note, Section, Table
from holdfast.evaluation.report.headline import NOTHING, SPACE, between, change, nats, seconds, whole
from holdfast.evaluation.report.records import Entry, RunRecord, number


def warnings_section(runs: Sequence[RunRecord]) -> Section:
    """Alarms with the figures that raised them, and the last forecast for each text in words."""
    parts: list[Block] = []
    for i, run in enumerate(runs):
        alarms, foretold = run.lines("alarm"), forecasts(run)
        if alarms or foretold:
            parts += [Heading(run.name, i), *map(Note, foretold.values())]
        if alarms:
            parts.append(alarm_table(run, alarms))
    figures = {run.name: {"alarms": run.lines("alarm"), "forecasts": [*_last(run).values()]} for run in runs}
    return Section("Alarms and forecasts", parts, "warnings", figures if parts else None)


def alarm_table(run: RunRecord, alarms: Sequence[Entry]) -> Table:
    """Alarms, one a row: changes of perplexity for guarded texts, a metric's own figures for anything else."""
    columns, texts = ("step", "text", "got worse by", "at least", "allowed"), run.texts("probe")
    rows = [_alarm(line, change if line.get("text") in texts else nats) for line in alarms]
    return Table(columns, rows, named=False, tall=len(alarms) > 12)


def _alarm(line: Entry, form: Callable[[float], str]) -> list[Cell]:
    step, rise, lower, margin = (number(line, key) for key in ("step", "rise", "lower", "margin"))
    sure = number(line, "level")
    certain = (f"{100 * sure:.4g}{SPACE}% sure",) if 0 < sure < 1 else ()
    return [
        Cell(whole(step), exact=step),
        Cell(str(line.get("text", NOTHING)), kind="words"),
        Cell(form(rise), exact=rise),
        Cell(form(lower), certain, exact=lower),
        Cell(form(margin).lstrip("+"), exact=margin),
    ]


def forecasts(run: RunRecord) -> dict[str, str]:
    """By text, what the last forecast for it says."""
    return {text: forecast(line) for text, line in _last(run).items()}


def _last(run: RunRecord) -> dict[str, Entry]:
    return {str(line.get("text")): line for line in run.lines("forecast")}


def forecast(line: Entry) -> str:
    """A forecast as a sentence; without a crossing the curve never gets there, or too little is known of it."""
    crossing, low, high = (number(line, key) for key in ("crossing", "low", "high"))
    budget = number(line, "budget")
    of = f" of {change(budget).lstrip('+')}" if math.isfinite(budget) else ""
    made = f"By the forecast of step {whole(number(line, 'step'))}, {line.get('text', NOTHING)}"
    if math.isnan(crossing):
        beyond = f"nothing foretells that it passes its budget{of}" if of else "it has no budget to pass"
        return f"{made}{_slope(line)}: {beyond}."
    if slope := _slope(line):
        made += f"{slope} and"
    ends = f", between {_step(low)} and {_step(high)} with 95{SPACE}%" if not math.isnan(low + high) else ""
    return f"{made} passes its budget{of} at step {whole(crossing)}{ends}."


def _slope(line: Entry) -> str:
    slope, low, high = (number(line, key) for key in ("slope", "slope_low", "slope_high"))
    ends = "" if math.isnan(low + high) else f" {between(low, high, change)}"
    return f" changes by {change(slope)}{ends} in 100 steps" if math.isfinite(slope) else ""


def _step(value: float) -> str:
    return f"step {whole(value)}" if math.isfinite(value) else "the end"


def monitored(runs: Sequence[RunRecord]) -> list[Block]:
    """What the monitor took of each run's time, where its certificate says so."""
    told = ((run.name, monitoring(run.certificate or {})) for run in runs)
    return [Note(f"{name}: watching took {said}.") for name, said in told if said]


def monitoring(certificate: Entry) -> str:
    """The cost of monitoring in words; empty where it was not measured."""
    cost = certificate.get("monitoring")
    if not isinstance(cost, Mapping) or math.isnan(number(cost, "share")):
        return ""
    share, stated = 100 * number(cost, "share"), 100 * number(cost, "stated")
    of = f", {stated:.3g}{SPACE}% was stated" if math.isfinite(stated) else ""
    looks = f" for {whole(number(cost, 'looks'))} looks"
    return f"{share:.2g}{SPACE}% of the time ({seconds(number(cost, 'seconds'))}{looks}{of})"
