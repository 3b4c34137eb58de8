"""The page about sequences of tasks: the figures, the matrix, and what became of each task and of the general texts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text as Words

from holdfast._errors import BadInput
from holdfast.evaluation.matrix import FIGURES, over_seeds
from holdfast.evaluation.report.drawing import FAINT, colour, dashes, inline, marker, percent_scale, style
from holdfast.evaluation.report.evidence import certificates_section
from holdfast.evaluation.report.headline import NOTHING, Cell, between, marked, precise, signed
from holdfast.evaluation.report.page import cell, escape, figure, grid, key, note, page, row_name, run_name, section
from holdfast.evaluation.report.page import table as table_of
from holdfast.evaluation.report.records import Entry, RunRecord, number, percent, read_runs
from holdfast.evaluation.report.sections import headline_section

FILE = "matrix.json"

_KINDS = {"accuracy": "Accuracy", "loss": "Loss, nats per token"}
_SIGNED = {"backward_transfer", "forward_transfer", "forgetting"}


@dataclass(frozen=True)
class SequenceRecord:
    """A sequence's folder as it is read back: the run record of its certificate, and its matrix."""

    run: RunRecord
    matrix: Entry

    def figure(self, kind: str, name: str) -> Entry:
        """One figure of one matrix with its interval; empty where there is none."""
        found = self.matrix.get(kind)
        return found["figures"][name] if isinstance(found, Mapping) else {}


def is_sequence(folder: str | Path) -> bool:
    """Whether a folder holds a sequence of tasks."""
    return (Path(folder) / FILE).is_file()


def read_sequences(folders: Sequence[str | Path]) -> list[SequenceRecord]:
    """Records of all sequences, under names that tell them apart; raises BadInput where one has no matrix."""
    if lacking := [str(folder) for folder in folders if not is_sequence(folder)]:
        raise BadInput(f"{', '.join(lacking)}: no sequence, for there is no {FILE}. Report runs and sequences apart.")
    matrices = [json.loads((Path(folder) / FILE).read_text("utf-8")) for folder in folders]
    return [SequenceRecord(run, matrix) for run, matrix in zip(read_runs(folders), matrices, strict=True)]


def write_sequence_report(folders: Sequence[str | Path], target: str | Path, *, title: str = "Sequence report") -> Path:
    """Write the page about one or several sequences and return where it stands.

    Several that differ by their seed alone also get the mean over seeds with Student's interval.
    """
    target = Path(target)
    text = sequence_report(read_sequences(folders), title)
    half = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    half.write_text(text, encoding="utf-8")
    os.replace(half, target)
    return target


def sequence_report(records: Sequence[SequenceRecord], title: str) -> str:
    """The page as text; the same sequences and title give the same text."""
    kinds = [kind for kind in _KINDS if any(kind in record.matrix for record in records)]
    with style():
        drawn = [part for i, record in enumerate(records) for part in _drawn(i, record, kinds)]
    runs = [record.run for record in records]
    said = [note(f"{name.replace('_', ' ')}: {meaning}.") for name, meaning in FIGURES.items()]
    return page(
        title,
        [
            headline_section(runs),
            section("Figures of the sequence", *(_figures(records, kind) for kind in kinds), *said),
            section("Task by task", *drawn),
            certificates_section(runs),
        ],
    )


def render_sequences(folders: Sequence[str | Path]) -> Table:
    """The figures of sequences as a table for the terminal: a column per sequence, accuracy where there is any."""
    records = read_sequences(folders)
    found = Table(box=SIMPLE_HEAD, pad_edge=False, caption="[…] 95 % interval over test items")
    found.add_column("")
    for record in records:
        found.add_column(Words(record.run.name))
    for kind in _KINDS:
        if any(kind in record.matrix for record in records):
            for name in FIGURES:
                cells = [_cell(record.figure(kind, name), name) for record in records]
                label = f"{name.replace('_', ' ')} ({_KINDS[kind].lower()})"
                found.add_row(Words(label), *(Words("\n".join((c.value, *c.details))) for c in cells))
            found.add_section()
    found.add_row("certificate", *(Words(marked(record.run.verdict or "")) for record in records))
    return found


def _figures(records: Sequence[SequenceRecord], kind: str) -> str:
    """A row a sequence, one for the mean over seeds where there are several, and one a reference."""
    rows = [[row_name(r.run.name), *(cell(_cell(r.figure(kind, f), f)) for f in FIGURES)] for r in records]
    if len(records) > 1:
        rows.append([row_name(f"mean of {len(records)}", "interval over seeds"), *_over(records, kind)])
    for record in records:
        for name, reference in dict(record.matrix.get("references") or {}).items():
            mean = Cell(precise(number(reference.get(kind) or {}, "mean")))
            label = row_name(name, f"reference of {record.run.name}")
            rows.append([label, cell(mean), *(cell(Cell(NOTHING)) for _ in list(FIGURES)[1:])])
    columns = [_KINDS[kind], *(name.replace("_", " ") for name in FIGURES)]
    return table_of(columns, rows)


def _over(records: Sequence[SequenceRecord], kind: str) -> Iterable[str]:
    for name in FIGURES:
        found = over_seeds([number(record.figure(kind, name), "mean") for record in records])
        yield cell(_cell({"mean": found.mean, "low": found.low, "high": found.high}, name))


def _cell(entry: Entry, name: str) -> Cell:
    """A figure with its interval; differences with their sign."""
    if math.isnan(number(entry, "mean")):
        return Cell(NOTHING)

    def form(value: float) -> str:
        return signed(value, 4) if name in _SIGNED else precise(value)

    return Cell(form(number(entry, "mean")), (between(number(entry, "low"), number(entry, "high"), form),))


def _drawn(place: int, record: SequenceRecord, kinds: Sequence[str]) -> list[str]:
    """The matrices of one sequence as tables, and as lines over its tasks."""
    parts = [run_name(place, record.run.name)]
    for kind in kinds:
        if kind in record.matrix:
            told = _table(record.matrix[kind], list(record.matrix["metrics"]))
            parts += [note(f"{_KINDS[kind]}: a row a model, a column a task."), told]
    lines = [_lines(record, kind) for kind in kinds if kind in record.matrix]
    drawn = [figure(title, inline(f, f"tasks-{place}-{i}", title)) for i, (title, f) in enumerate(lines)]
    general = _general(record)
    if general is not None:
        title = "Change of perplexity on the general texts, % of the base's"
        drawn.append(figure(title, inline(general, f"general-{place}", title)))
    names = [*next(record.matrix[kind]["tasks"] for kind in reversed(kinds) if kind in record.matrix)]
    return [*parts, key(names), grid(drawn), *_runs(record)]


def _table(matrix: Entry, order: Sequence[str]) -> str:
    labels = ["base", *(f"after {name}" for name in order)]
    rows = [
        [row_name(label), *(cell(_cell(entry or {}, "")) for entry in row)]
        for label, row in zip(labels, matrix["cells"], strict=False)
    ]
    return table_of(["", *matrix["tasks"]], rows)


def _lines(record: SequenceRecord, kind: str) -> tuple[str, Figure]:
    """Each task's figure from model to model."""
    matrix, picture = record.matrix[kind], Figure(figsize=(4.8, 3.0), layout="constrained")
    axes = picture.add_subplot()
    places = {name: i for i, name in enumerate(record.matrix["metrics"])}
    for j, name in enumerate(matrix["tasks"]):
        known = [(i, row[j]) for i, row in enumerate(matrix["cells"]) if row[j] is not None]
        stages, means = [i for i, _ in known], [number(entry, "mean") for _, entry in known]
        hue, place = colour(places[name]), places[name]
        low, high = ([number(entry, side) for _, entry in known] for side in ("low", "high"))
        axes.fill_between(stages, low, high, color=hue, alpha=0.14, linewidth=0)
        axes.plot(stages, means, color=hue, linestyle=dashes(place), marker=marker(place), markersize=4)
        axes.axvline(matrix["learnt"][j], color=FAINT, linewidth=0.6)
    _tasks_axis(axes, len(matrix["cells"]))
    return f"{_KINDS[kind]} of each task", picture


def _general(record: SequenceRecord) -> Figure | None:
    """How far the general texts rose from model to model."""
    general = dict(record.matrix.get("general") or {})
    if not general:
        return None
    picture = Figure(figsize=(4.8, 3.0), layout="constrained")
    axes = picture.add_subplot()
    found = {name: _columns(rises) for name, rises in general.items()}
    budget = dict((record.run.certificate or {}).get("budget") or {})
    limits = [100 * share for name, share in budget.items() if name in general]
    percent_scale(axes, "y", [v for columns in found.values() for column in columns for v in column], limits)
    for place, (name, (means, low, high)) in enumerate(found.items()):
        stages = list(range(len(means)))
        axes.fill_between(stages, low, high, color=FAINT, alpha=0.16, linewidth=0)
        axes.plot(stages, means, color=FAINT, linestyle=dashes(place), marker=marker(place), markersize=4)
        axes.annotate(name, (stages[-1], means[-1]), xytext=(-4, 4), textcoords="offset points", ha="right")
    _tasks_axis(axes, len(next(iter(general.values()))))
    return picture


def _columns(rises: Sequence[Entry]) -> list[list[float]]:
    """Mean, low and high of each model's rise, in per cent of perplexity."""
    return [[percent(number(entry, key)) for entry in rises] for key in ("mean", "low", "high")]


def _tasks_axis(axes: Any, stages: int) -> None:
    axes.set_xlabel("tasks learnt")
    axes.set_xticks(range(stages))


def _runs(record: SequenceRecord) -> list[str]:
    """Where the pages of the single runs stand, as the sequence's own folder sees them."""
    names = [str(name) for name in record.matrix.get("runs") or ()]
    links = ", ".join(f'<a href="{escape(name)}/report.html">{escape(name)}</a>' for name in names)
    return [f'<p class="quiet">The run of each task: {links}</p>'] if names else []
