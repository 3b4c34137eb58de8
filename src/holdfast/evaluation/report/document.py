"""The report about runs: one list of sections, written as a self-contained HTML page, as Markdown or as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from holdfast._errors import BadInput
from holdfast.evaluation.plain import finite
from holdfast.evaluation.report.classes import classes_section
from holdfast.evaluation.report.content import Note, Section
from holdfast.evaluation.report.evidence import certificates_section, samples_section
from holdfast.evaluation.report.forgetting import forgetting_section
from holdfast.evaluation.report.items import items_section
from holdfast.evaluation.report.markdown import markdown
from holdfast.evaluation.report.page import page
from holdfast.evaluation.report.records import RunRecord, read_runs
from holdfast.evaluation.report.sections import (
    curves_section,
    decisions_section,
    headline_section,
    importance_section,
    movement_section,
    plane_section,
)
from holdfast.evaluation.report.suites import examples_section, suites_section
from holdfast.evaluation.report.watchfulness import warnings_section

_READING = (
    "Gain is how far the loss on held-out new text fell below the base model's, forgetting is how far perplexity rose "
    "on text that had to be kept, and every interval is a 95 % bootstrap interval over the same documents before and "
    "after.",
    "A certificate holds when the one-sided 95 % upper bound of the perplexity rise is inside the budget on every "
    "guarded text, is undecided when only the mean is, and is broken otherwise; it was measured once, at the end, on "
    "audit text that steered nothing.",
    "Curves and faint trails were measured on the control probe, which is other text and did steer governed runs, so "
    "they may differ a little from the certificate; about text of a kind that is not named here, this page says "
    "nothing.",
)

_OUTCOME = (headline_section, classes_section, items_section, plane_section)
_EVALUATED = (suites_section, examples_section)
_COURSE = (
    curves_section,
    warnings_section,
    forgetting_section,
    decisions_section,
    movement_section,
    importance_section,
    samples_section,
    certificates_section,
)


def write_report(runs: Sequence[RunRecord | str | Path], target: str | Path, *, title: str = "Holdfast report") -> Path:
    """Write the report about one or several runs or evaluations, and return where it stands.

    Runs are given as folders or records; the target's name ends in .html, .md or .json. What a run folder lacks is said
    in one sentence where it would stand. Raises BadInput for another ending, where there are no runs, or where a folder
    is not a run's.
    """
    target = report_file(target)
    return write(title, sections(read_runs(runs)), target)


def report_file(target: str | Path) -> Path:
    """Where a report goes; raises BadInput unless its name ends in .html, .md or .json."""
    target = Path(target)
    if target.suffix.lower() not in FORMATS:
        raise BadInput(f"{target} must end in {', '.join(FORMATS)}: a report is a page, Markdown or JSON.")
    return target


def sections(runs: Sequence[RunRecord]) -> list[Section]:
    """All that is said about runs; where there are evaluations alone, what is said about those."""
    trained = [run for run in runs if run.trained]
    ordered = [*trained, *(run for run in runs if not run.trained)]  # so that each run has one colour all over
    found = [make(trained) for make in _OUTCOME if trained]
    found += [make(ordered) for make in _EVALUATED]
    found += [make(trained) for make in _COURSE if trained]
    return [*found, Section("How to read this page", [Note(sentence, quiet=False) for sentence in _READING if trained])]


def write(title: str, told: Sequence[Section], target: Path) -> Path:
    """Write sections as the target's name wants it: whole or not at all."""
    text = FORMATS[target.suffix.lower()](title, told)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, target)
    return target


def as_json(title: str, told: Sequence[Section]) -> str:
    """The figures of all sections under their names, as one object."""
    figures = {section.name: section.figures for section in told if section.name and section.figures is not None}
    return json.dumps(finite({"title": title, **figures}), ensure_ascii=False, indent=1) + "\n"


FORMATS = {".html": page, ".md": markdown, ".json": as_json}
