"""The sections of the page that look at runs side by side: headline, plane, curves, decisions and movement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from holdfast.evaluation.report.drawing import inline
from holdfast.evaluation.report.headline import NOTHING, SPACE, Cell, headline, plain, verdict_sentence, whole
from holdfast.evaluation.report.movement import level, moved, movement
from holdfast.evaluation.report.page import (
    absent,
    cell,
    escape,
    figure,
    grid,
    key,
    note,
    own,
    row_name,
    run_name,
    section,
    table,
    words,
)
from holdfast.evaluation.report.plane import plane
from holdfast.evaluation.report.plots import ACTIONS, curves
from holdfast.evaluation.report.records import Entry, RunRecord, number


def headline_section(runs: Sequence[RunRecord]) -> str:
    """Each run's verdict in words, and the table of all."""
    said = "".join(
        f'<li {own(i)}><span class="run">{escape(run.name)}</span> {escape(verdict_sentence(run))}</li>'
        for i, run in enumerate(runs)
    )
    found = headline(runs)
    rows = [[row_name(row[0].value), *map(cell, row[1:])] for row in found.rows]
    small = "In brackets: 95 % intervals. Bound: one-sided 95 % upper bound, which has to be inside what is allowed."
    return f'<ul class="verdicts">{said}</ul>\n{table(found.columns, rows)}\n{note(small)}'


def plane_section(runs: Sequence[RunRecord]) -> str:
    """The learning-versus-keeping plane, in two shapes of which the page shows the one that fits."""
    sizes = {"large": (8.6, 5.0), "small": (4.9, 5.2)}
    drawn = {kind: plane(runs, width=width, height=height) for kind, (width, height) in sizes.items()}
    label = "Gain on the new text against forgetting of the worst guarded text, one point per run."
    pictures = [
        f'<div class="{kind}">{inline(found, f"plane-{kind}", label)}</div>'
        for kind, found in drawn.items()
        if found is not None
    ]
    if not pictures:
        return section("Learning versus keeping", note("No run has measured both a gain and a loss yet."))
    caption = (
        "Up is more learnt, right is more forgotten. A point is the certificate, on audit texts, with 95 % intervals. "
        "The faint trail is the way there from the base model at the origin, as the monitor saw it on control texts; "
        "it ends beside the point where the two differ. Beyond the middle part the horizontal axis is logarithmic."
    )
    return section("Learning versus keeping", figure(caption, *pictures, kind="plane"))


def curves_section(runs: Sequence[RunRecord]) -> str:
    """What the logs follow over the steps."""
    pictures = curves(runs)
    drawn = [figure(p.title, inline(p.figure, f"curve-{i}", p.title)) for i, p in enumerate(pictures)]
    parts = [key([run.name for run in runs]), *_signs(runs), grid(drawn)] if drawn else []
    return section("Over the steps", *parts, *_remarks(runs), *absent(runs, "log.jsonl"))


def _remarks(runs: Sequence[RunRecord]) -> list[str]:
    """What the runs noted by the way, such as a loss that was no number."""
    noted = [(run.name, line) for run in runs for line in run.lines("note")]
    return [note(f"{name}, step {line['step']}: {line.get('text', NOTHING)}") for name, line in noted]


def _signs(runs: Sequence[RunRecord]) -> list[str]:
    taken = {str(line.get("action")) for run in runs for line in run.lines("governor")}
    signs = [f"{sign}{SPACE}{action.replace(' ', SPACE)}" for action, (_, sign) in ACTIONS.items() if action in taken]
    return [note(f"Above the changes of perplexity, what the governor decided: {', '.join(signs)}.")] if signs else []


def decisions_section(runs: Sequence[RunRecord]) -> str:
    """What the governor did, when and why."""
    governed = [(i, run) for i, run in enumerate(runs) if run.lines("governor")]
    if not governed:
        return section("The governor's decisions", note("No governor has decided anything in these runs."))
    parts = []
    for i, run in governed:
        lines = run.lines("governor")
        rows = [_decision(line) for line in lines]
        parts.append(run_name(i, run.name))
        parts.append(table(("step", "decision", "strengths", "fraction", "reason"), rows, tall=len(lines) > 12))
    return section("The governor's decisions", *parts)


def _decision(line: Entry) -> list[str]:
    strengths = line.get("strengths")
    known = {n: number(strengths, n) for n in strengths} if isinstance(strengths, Mapping) else {}
    set_to = [f"{name} {value:.4g}" for name, value in known.items() if math.isfinite(value)]
    action = str(line.get("action", NOTHING))
    sign = ACTIONS.get(action, ("", ""))[1]
    cells = (Cell(whole(number(line, "step"))), Cell(f"{sign} {action}".strip()), Cell(", ".join(set_to) or NOTHING))
    fraction = Cell(plain(number(line, "fraction")))
    return [*map(cell, (*cells, fraction)), words(_why(line), wide=True)]


def _why(line: Entry) -> str:
    """The reason that a decision gives, the share of the aim that was used, and whether it was the last."""
    used = number(line, "used")
    share = f"{100 * used:,.0f}{SPACE}% of the aim is used" if math.isfinite(used) else ""
    last = "the final weights, judged on all control rows" if line.get("final") else ""
    return "; ".join(filter(None, (str(line.get("reason") or ""), share, last)))


def movement_section(runs: Sequence[RunRecord]) -> str:
    """How far each part of each model went from the base."""
    values = [value for run in runs for value in moved(run).values() if value > 0]
    lowest, highest = min(values, default=0.0), max(values, default=0.0)
    drawn = []
    for i, run in enumerate(runs):
        picture = movement(run, lowest, highest)
        if picture is not None:
            label = f"Relative movement of each part of {run.name}"
            drawn.append(figure(run.name, inline(picture, f"movement-{i}", label)))
    if not drawn:
        return section("Movement per layer", note("No run has logged how far its weights moved."))
    caption = (
        "Distance of the weights from the base model's, relative to their own length, at the last look. The colour is "
        "logarithmic and the same for all runs; what did not move at all has none. Outside: in no block."
    )
    return section("Movement per layer", note(caption), _swatches(lowest, highest), grid(drawn))


def _swatches(lowest: float, highest: float) -> str:
    if not highest > 0:
        return ""
    shown = [lowest * (highest / lowest) ** (i / 4) for i in range(5)]
    return "".join(('<ul class="key">', *(_swatch(v, level(v, lowest, highest)) for v in shown), "</ul>"))


def _swatch(value: float, depth: float) -> str:
    return f'<li><span class="swatch" style="--depth: {100 * depth:.0f}%"></span>{value:.2g}</li>'
