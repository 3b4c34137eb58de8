"""The section about classifiers: accuracy and F1, label by label, and which labels are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.evaluation.report.content import Block, Cell, Heading, Note, Section, Table
from holdfast.evaluation.report.headline import accuracy, portion, whole
from holdfast.evaluation.report.records import Entry, RunRecord, number

MOST = 20
"""Labels of a confusion matrix that is shown; that of more is in the certificate."""


def classes_section(runs: Sequence[RunRecord]) -> Section:
    """What each classifier tells apart; empty where no run is one."""
    found = [(i, run, entry) for i, run in enumerate(runs) for entry in run.audited("learnt") if "accuracy" in entry]
    blocks = [block for i, run, entry in found for block in _blocks(i, run, entry)]
    told = {run.name: {str(entry.get("text")): _figures(entry) for _, r, entry in found if r is run} for run in runs}
    return Section("Labels", blocks, "classes", {name: texts for name, texts in told.items() if texts})


def _blocks(place: int, run: RunRecord, entry: Entry) -> list[Block]:
    low, high = (number(entry, f"macro_f1_{end}") for end in ("low", "high"))
    found = accuracy(entry)
    said = (
        f"{entry.get('text')}: accuracy {found.value} {found.details[0]} ({found.details[1]}), macro-F1 "
        f"{number(entry, 'macro_f1'):.3f} [{low:.3f}, {high:.3f}]. Its gain counts from "
        f"{entry.get('reference', 'the base')}."
    )
    return [Heading(run.name, place), Note(said, quiet=False), _table(entry), *_confusion(entry)]


def _table(entry: Entry) -> Table:
    rows = [
        [
            Cell(str(label.get("label"))),
            *(Cell(whole(number(label, key)), exact=number(label, key)) for key in ("n", "told")),
            *(Cell(portion(number(label, key)), exact=number(label, key)) for key in ("precision", "recall", "f1")),
        ]
        for label in _labels(entry)
    ]
    return Table(("label", "rows", "told", "precision", "recall", "F1"), rows, tall=len(rows) > 12)


def _confusion(entry: Entry) -> list[Block]:
    """How often each label (a row) was taken for each (a column), shaded by its share of the row."""
    labels, counts = [str(label.get("label")) for label in _labels(entry)], entry.get("confusion")
    if not isinstance(counts, list) or len(labels) > MOST:
        return []
    rows = [
        [Cell(name), *(Cell(whole(n), exact=float(n), depth=n / max(sum(row), 1)) for n in row)]
        for name, row in zip(labels, counts, strict=True)
    ]
    return [Note("Rows are the right labels, columns what was told."), Table(("right", *labels), rows)]


def _labels(entry: Entry) -> list[Mapping[str, Any]]:
    found = entry.get("classes")
    return [label for label in found if isinstance(label, Mapping)] if isinstance(found, list) else []


def _figures(entry: Entry) -> dict[str, Any]:
    kept = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "macro_f1_low", "macro_f1_high", "majority")
    return {**{key: entry.get(key) for key in kept}, "labels": _labels(entry)}
