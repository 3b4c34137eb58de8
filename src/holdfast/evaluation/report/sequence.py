"""The page about sequences of tasks: the figures, the matrix, and what became of each task and of the general texts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text as Words

from holdfast._errors import BadInput
from holdfast.evaluation.matrix import FIGURES, over_seeds
from holdfast.evaluation.report.content import Block, Cell, Heading, Links, Note, Picture, Pictures, Section
from holdfast.evaluation.report.content import Table as Rows
from holdfast.evaluation.report.document import report_file, write
from holdfast.evaluation.report.drawing import FAINT, colour, dashes, marker, percent_scale
from holdfast.evaluation.report.evidence import certificates_section
from holdfast.evaluation.report.headline import NOTHING, between, marked, precise, share, signed
from holdfast.evaluation.report.records import Entry, RunRecord, number, percent, read_runs
from holdfast.evaluation.report.sections import headline_section
from holdfast.evaluation.report.tips import tell

FILE = "matrix.json"

_KINDS = {"accuracy": "Accuracy", "loss": "Loss, nats per token"}
_SIGNED = {"backward_transfer", "forward_transfer", "forgetting"}
_DEEPEST = {"accuracy": 0.5, "loss": 1.0}
"""What was forgotten where the heat map is deepest, at least: noise on a hundred items does not glow."""


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
    """Write the report about one or several sequences, as .html, .md or .json, and return where it stands.

    Several that differ by their seed alone also get the mean over seeds with Student's interval.
    """
    target = report_file(target)
    return write(title, sequence_sections(read_sequences(folders)), target)


def sequence_sections(records: Sequence[SequenceRecord]) -> list[Section]:
    """All that is said about sequences."""
    kinds = [kind for kind in _KINDS if any(kind in record.matrix for record in records)]
    runs = [record.run for record in records]
    said = [Note(f"{name.replace('_', ' ')}: {meaning}.") for name, meaning in FIGURES.items()]
    tasks = [part for i, record in enumerate(records) for part in _told(i, record, kinds)]
    matrices = {record.run.name: record.matrix for record in records}
    return [
        headline_section(runs),
        Section("Figures of the sequence", [*(_figures(records, kind) for kind in kinds), *said]),
        Section("Task by task", tasks, "matrix", matrices),
        certificates_section(runs),
    ]


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


def _figures(records: Sequence[SequenceRecord], kind: str) -> Block:
    """A row a sequence, one for the mean over seeds where there are several, and one a reference."""
    rows = [[Cell(r.run.name), *(_cell(r.figure(kind, f), f) for f in FIGURES)] for r in records]
    if len(records) > 1:
        rows.append([Cell(f"mean of {len(records)}", ("interval over seeds",)), *_over(records, kind)])
    for record in records:
        for name, reference in dict(record.matrix.get("references") or {}).items():
            mean = number(reference.get(kind) or {}, "mean")
            label = Cell(name, (f"reference of {record.run.name}",))
            rows.append([label, Cell(precise(mean), exact=mean), *(Cell(NOTHING) for _ in list(FIGURES)[1:])])
    return Rows([_KINDS[kind], *(name.replace("_", " ") for name in FIGURES)], rows)


def _over(records: Sequence[SequenceRecord], kind: str) -> Iterable[Cell]:
    for name in FIGURES:
        found = over_seeds([number(record.figure(kind, name), "mean") for record in records])
        yield _cell({"mean": found.mean, "low": found.low, "high": found.high}, name)


def _cell(entry: Entry, name: str) -> Cell:
    """A figure with its interval; differences with their sign."""
    if math.isnan(number(entry, "mean")):
        return Cell(NOTHING)

    def form(value: float) -> str:
        return signed(value, 4) if name in _SIGNED else precise(value)

    mean = number(entry, "mean")
    return Cell(form(mean), (between(number(entry, "low"), number(entry, "high"), form),), exact=mean)


def _told(place: int, record: SequenceRecord, kinds: Sequence[str]) -> list[Block]:
    """The matrices of one sequence as heat maps, and as lines over its tasks."""
    parts: list[Block] = [Heading(record.run.name, place)]
    known = [kind for kind in kinds if kind in record.matrix]
    for kind in known:
        said = f"{_KINDS[kind]}: a row a model, a column a task; the deeper the colour, the more of it was forgotten."
        parts += [Note(said), _heat_map(record.matrix[kind], list(record.matrix["metrics"]), _DEEPEST[kind])]
    names = [*next(record.matrix[kind]["tasks"] for kind in reversed(known))] if known else []
    return [*parts, Pictures(lambda: _pictures(record, known), key=names), *_runs(record)]


def _pictures(record: SequenceRecord, kinds: Sequence[str]) -> list[Picture]:
    general = _general(record)
    drawn = [Picture("Change of perplexity on the general texts, % of the base's", general)] if general else []
    return [*(_lines(record, kind) for kind in kinds), *drawn]


def _heat_map(matrix: Entry, order: Sequence[str], deepest: float) -> Rows:
    """The matrix with its figures; each cell is shaded by how far it fell behind the best model before it."""
    rows, lost = matrix["cells"], forgotten(matrix)
    top = max([deepest, *(x for row in lost for x in row)])
    labels = ["base", *(f"after {name}" for name in order)]
    shaded = [
        [Cell(label), *(_shaded(entry or {}, x, top) for entry, x in zip(row, behind, strict=True))]
        for label, row, behind in zip(labels, rows, lost, strict=False)
    ]
    return Rows(["", *matrix["tasks"]], shaded)


def _shaded(entry: Entry, lost: float, top: float) -> Cell:
    plain = _cell(entry, "")
    details = (*plain.details, f"forgot {precise(lost)}") if lost > 0 else plain.details
    return replace(plain, details=details, depth=lost / top if lost > 0 else None)


def forgotten(matrix: Entry) -> list[list[float]]:
    """How far each cell lies behind the best one above it: 0 where nothing was lost or nothing is known."""
    sign, best = (1.0 if matrix["higher"] else -1.0), [-math.inf] * len(matrix["tasks"])
    lost = []
    for row in matrix["cells"]:
        values = [sign * number(entry or {}, "mean") for entry in row]
        lost.append([max(0.0, b - v) if math.isfinite(b - v) else 0.0 for b, v in zip(best, values, strict=True)])
        best = [b if math.isnan(v) else max(b, v) for b, v in zip(best, values, strict=True)]
    return lost


def _lines(record: SequenceRecord, kind: str) -> Picture:
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
        for i, mean, least, most in zip(stages, means, low, high, strict=True):
            tell(axes, i, mean, f"{name}, {i} tasks learnt: {precise(mean)} {between(least, most, precise)}")
    _tasks_axis(axes, len(matrix["cells"]))
    return Picture(f"{_KINDS[kind]} of each task", picture)


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
        for i in stages:
            ends = between(low[i], high[i], share)
            tell(axes, i, means[i], f"{name}, {i} tasks learnt: {share(means[i])} {ends}")
        axes.annotate(name, (stages[-1], means[-1]), xytext=(-4, 4), textcoords="offset points", ha="right")
    _tasks_axis(axes, len(next(iter(general.values()))))
    return picture


def _columns(rises: Sequence[Entry]) -> list[list[float]]:
    """Mean, low and high of each model's rise, in per cent of perplexity."""
    return [[percent(number(entry, key)) for entry in rises] for key in ("mean", "low", "high")]


def _tasks_axis(axes: Any, stages: int) -> None:
    axes.set_xlabel("tasks learnt")
    axes.set_xticks(range(stages))


def _runs(record: SequenceRecord) -> list[Block]:
    """Where the pages of the single runs stand, as the sequence's own folder sees them."""
    names = [str(name) for name in record.matrix.get("runs") or ()]
    return [Links("The run of each task:", {name: f"{name}/report.html" for name in names})] if names else []
