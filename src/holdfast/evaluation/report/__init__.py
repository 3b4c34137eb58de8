"""What a reader gets to see of runs: the page, the plane as a picture, and the table for the terminal."""

from holdfast.evaluation.report.document import FORMATS, write_report
from holdfast.evaluation.report.drawing import picture_file
from holdfast.evaluation.report.frontier import frontier_picture
from holdfast.evaluation.report.headline import render_table
from holdfast.evaluation.report.importance import importance_picture
from holdfast.evaluation.report.plane import plane_picture
from holdfast.evaluation.report.rates import rates_picture
from holdfast.evaluation.report.records import RunRecord, read_run, read_runs
from holdfast.evaluation.report.sequence import is_sequence, read_sequences, render_sequences, write_sequence_report
from holdfast.evaluation.report.suites import render_runs

__all__ = [
    "FORMATS",
    "RunRecord",
    "frontier_picture",
    "importance_picture",
    "is_sequence",
    "picture_file",
    "plane_picture",
    "rates_picture",
    "read_run",
    "read_runs",
    "read_sequences",
    "render_runs",
    "render_sequences",
    "render_table",
    "write_report",
    "write_sequence_report",
]
