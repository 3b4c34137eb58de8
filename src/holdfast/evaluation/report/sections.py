"""The sections that look at runs side by side: headline, plane, curves, decisions, movement, importance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.evaluation.report.content import (
    Block,
    Cell,
    Heading,
    Note,
    Picture,
    Pictures,
    Section,
    Swatches,
    Table,
    Verdicts,
)
from holdfast.evaluation.report.headline import NOTHING, SPACE, change, headline, plain, verdict_sentence, whole
from holdfast.evaluation.report.movement import layer_map, level, parts
from holdfast.evaluation.report.plane import plane, tracks
from holdfast.evaluation.report.plots import ACTIONS, curves
from holdfast.evaluation.report.records import Entry, RunRecord, number
from holdfast.evaluation.report.watchfulness import monitored

_SIZES: tuple[Any, ...] = (("large", 8.6, 5.0), ("small", 4.9, 5.2))


def absent(runs: Sequence[RunRecord], file: str) -> list[Note]:
    """One sentence for each run that has nothing to say here, because it lacks this file."""
    return [Note(f"{run.name}: {run.missing[file]}") for run in runs if file in run.missing]


def headline_section(runs: Sequence[RunRecord]) -> Section:
    """Each run's verdict in words, and the table of all."""
    said = [(i, run.name, verdict_sentence(run)) for i, run in enumerate(runs)]
    found = headline(runs)
    small = "In brackets: 95 % intervals. Bound: one-sided 95 % upper bound, which has to be inside what is allowed."
    figures = [
        {"run": run.name, "verdict": run.verdict, "said": sentence, **_exact(found.columns, row)}
        for run, (_, _, sentence), row in zip(runs, said, found.rows, strict=True)
    ]
    return Section("", [Verdicts(said), Table(found.columns, found.rows), Note(small)], "headline", figures)


def _exact(columns: Sequence[str], row: Sequence[Cell]) -> dict[str, float]:
    return {column: cell.exact for column, cell in zip(columns, row, strict=True) if cell.exact is not None}


def plane_section(runs: Sequence[RunRecord]) -> Section:
    """The learning-versus-keeping plane, in two shapes of which the page shows the one that fits."""
    if not tracks(runs):
        return Section("Learning versus keeping", [Note("No run has measured both a gain and a loss yet.")])
    label = "Gain on the new text against forgetting of the worst guarded text, one point per run."
    caption = (
        "Up is more learnt, right is more forgotten. A point is the certificate, on audit texts, with 95 % intervals. "
        "The faint trail is the way there from the base model at the origin, as the monitor saw it on control texts; "
        "it ends beside the point where the two differ. Beyond the middle part the horizontal axis is logarithmic."
    )

    def draw() -> list[Picture]:
        drawn = ((size, plane(runs, width=width, height=height)) for size, width, height in _SIZES)
        return [Picture(label, found, size) for size, found in drawn if found is not None]

    return Section("Learning versus keeping", [Pictures(draw, caption=caption)])


def curves_section(runs: Sequence[RunRecord]) -> Section:
    """What the logs follow over the steps."""
    pictures = Pictures(lambda: curves(runs), key=[run.name for run in runs])
    notes = [*_signs(runs), pictures, *_looks(runs), *monitored(runs), *_remarks(runs), *absent(runs, "log.jsonl")]
    trends = {
        run.name: {kind: {text: run.series(kind, text) for text in run.texts(kind)} for kind in ("learn", "probe")}
        | {"train": run.lines("train")}
        for run in runs
    }
    return Section("Over the steps", notes, "trends", trends)


def _looks(runs: Sequence[RunRecord]) -> list[Block]:
    """The last and the worst look at each text, as figures."""
    rows = []
    for run in runs:
        for kind, key, form in (("learn", "gain", _gain), ("probe", "rise", change)):
            for text in run.texts(kind):
                looks = [number(line, key) for line in run.series(kind, text)]
                ends = (looks[-1], min(looks), max(looks)) if looks else ()
                what = "gain" if kind == "learn" else "perplexity"
                told = [Cell(form(value), exact=value) for value in ends]
                name = Cell(run.name, (f"{what} on {text}",))
                rows.append([name, Cell(str(len(looks)), exact=len(looks)), *told])
    return [Table(("run and text", "looks", "last", "lowest", "highest"), rows)] if rows else []


def _gain(value: float) -> str:
    return f"{value:+.3f}{SPACE}nats".replace("-", "\N{MINUS SIGN}")


def _remarks(runs: Sequence[RunRecord]) -> list[Note]:
    """What the runs noted by the way, such as a loss that was no number."""
    noted = [(run.name, line) for run in runs for line in run.lines("note")]
    return [Note(f"{name}, step {line['step']}: {line.get('text', NOTHING)}") for name, line in noted]


def _signs(runs: Sequence[RunRecord]) -> list[Block]:
    taken = {str(line.get("action")) for run in runs for line in run.lines("governor")}
    taken |= {"alarm" for run in runs if run.lines("alarm")}
    signs = [f"{sign}{SPACE}{action.replace(' ', SPACE)}" for action, (_, sign) in ACTIONS.items() if action in taken]
    return [Note(f"Above the changes of perplexity: {', '.join(signs)}.")] if signs else []


def decisions_section(runs: Sequence[RunRecord]) -> Section:
    """What the governor did, when and why."""
    title, governed = "The governor's decisions", [(i, run) for i, run in enumerate(runs) if run.lines("governor")]
    parts: list[Block] = []
    for i, run in governed:
        parts += [Heading(run.name, i), decision_table(run.lines("governor"))]
    decisions = {run.name: run.lines("governor") for _, run in governed}
    return Section(title, parts or [Note("No governor has decided anything in these runs.")], "decisions", decisions)


def decision_table(lines: Sequence[Entry]) -> Table:
    """Decisions of a governor, one a row."""
    columns = ("step", "decision", "strengths", "fraction", "reason")
    return Table(columns, [_decision(line) for line in lines], named=False, tall=len(lines) > 12)


def strengths_of(line: Entry) -> dict[str, float]:
    """The strengths that a decision left, as far as they are figures."""
    strengths = line.get("strengths")
    known = {str(n): number(strengths, n) for n in strengths} if isinstance(strengths, Mapping) else {}
    return {name: value for name, value in known.items() if math.isfinite(value)}


def _decision(line: Entry) -> list[Cell]:
    set_to = [f"{name} {value:.4g}" for name, value in strengths_of(line).items()]
    action = str(line.get("action", NOTHING))
    sign = ACTIONS.get(action, ("", ""))[1]
    step, fraction = number(line, "step"), number(line, "fraction")
    return [
        Cell(whole(step), exact=step),
        Cell(f"{sign} {action}".strip()),
        Cell(", ".join(set_to) or NOTHING),
        Cell(plain(fraction), exact=fraction),
        Cell(_why(line), kind="wide"),
    ]


def _why(line: Entry) -> str:
    """The reason that a decision gives, the share of the aim that was used, and whether it was the last."""
    used = number(line, "used")
    share = f"{100 * used:,.0f}{SPACE}% of the aim is used" if math.isfinite(used) else ""
    last = "the final weights, judged on all control rows" if line.get("final") else ""
    return "; ".join(filter(None, (str(line.get("reason") or ""), share, last)))


def movement_section(runs: Sequence[RunRecord]) -> Section:
    """How far each part of each model went from the base."""
    found = _parts(runs, "movement")
    if not found:
        return Section("Movement per layer", [Note("No run has logged how far its weights moved.")])
    caption = (
        "Distance of the weights from the base model's, relative to their own length, at the last look. The colour is "
        "logarithmic and the same for all runs; what did not move at all has none. Outside: in no block."
    )
    blocks = [Note(caption), *_maps(runs, "movement", found), _farthest(found)]
    return Section("Movement per layer", blocks, "movement", found)


def importance_section(runs: Sequence[RunRecord]) -> Section:
    """What an anchor found important in each part of each model; empty where no run had one."""
    found = _parts(runs, "importance")
    if not found:
        return Section("Importance per layer", [])
    caption = (
        "Mean importance of the weights of each part, as the anchor that held them counts it: 1 is the mean over all "
        "weights of one task. The colour is logarithmic. Where this picture and the one above are both deep, something "
        "that mattered has moved."
    )
    return Section("Importance per layer", [Note(caption), *_maps(runs, "importance", found)], "importance", found)


def _parts(runs: Sequence[RunRecord], kind: str) -> dict[str, dict[str, float]]:
    """Each run's figures by part, in the words of its log."""
    known = {run.name: {_part(*part): value for part, value in parts(run, kind).items()} for run in runs}
    return {name: figures for name, figures in known.items() if figures}


def _maps(runs: Sequence[RunRecord], kind: str, found: Mapping[str, Mapping[str, float]]) -> list[Block]:
    """A heat map of each run, all in the same colours."""
    values = [value for figures in found.values() for value in figures.values() if value > 0]
    lowest, highest = min(values, default=0.0), max(values, default=0.0)

    def draw() -> list[Picture]:
        drawn = ((run.name, layer_map(run, kind, lowest, highest)) for run in runs)
        return [Picture(name, figure) for name, figure in drawn if figure is not None]

    return [*_swatches(lowest, highest), Pictures(draw)]


def _part(component: str, block: int | None) -> str:
    return component if block is None else f"layers.{block} {component}"


def _farthest(found: Mapping[str, Mapping[str, float]]) -> Note:
    """The part of each model that moved furthest, in words."""
    farthest = {run: max(parts, key=lambda part: parts[part]) for run, parts in found.items()}
    said = (f"{run}: {part} ({100 * found[run][part]:.2g}{SPACE}%)" for run, part in farthest.items())
    return Note(f"Furthest moved: {', '.join(said)}.")


def _swatches(lowest: float, highest: float) -> list[Block]:
    if not highest > 0:
        return []
    shown = [lowest * (highest / lowest) ** (i / 4) for i in range(5)]
    return [Swatches([(level(value, lowest, highest), f"{value:.2g}") for value in shown])]
