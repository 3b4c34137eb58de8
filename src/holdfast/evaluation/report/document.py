"""The report: one self-contained HTML page about what runs learnt and kept; it needs no script and no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.evaluation.report.drawing import style
from holdfast.evaluation.report.evidence import certificates_section, samples_section
from holdfast.evaluation.report.forgetting import forgetting_section
from holdfast.evaluation.report.page import escape, page, section
from holdfast.evaluation.report.records import RunRecord, read_runs
from holdfast.evaluation.report.sections import (
    curves_section,
    decisions_section,
    headline_section,
    movement_section,
    plane_section,
)

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

_COMPARED = (
    headline_section,
    plane_section,
    curves_section,
    forgetting_section,
    decisions_section,
    movement_section,
)


def write_report(runs: Sequence[RunRecord | str | Path], target: str | Path, *, title: str = "Holdfast report") -> Path:
    """Write the page about one or several runs, given as folders or records, and return where it stands.

    What a run folder lacks is said in one sentence where it would stand. Raises BadInput where there are no runs, or
    where a folder is not a run's.
    """
    target = Path(target)
    text = report(read_runs(runs), title)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, target)
    return target


def report(runs: Sequence[RunRecord], title: str) -> str:
    """The page as text; the same runs and title give the same text."""
    with style():
        compared = [make(runs) for make in _COMPARED]
    reading = section("How to read this page", *(f"<p>{escape(sentence)}</p>" for sentence in _READING))
    return page(title, [*compared, samples_section(runs), certificates_section(runs), reading])
