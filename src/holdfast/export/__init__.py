"""Models written for others: merged, checked and with their evidence."""

from holdfast.export.card import checks
from holdfast.export.exporting import Exported, Part, export
from holdfast.export.merging import MergeCheck, check_mergeable, merge
from holdfast.export.probe import Difference, difference, logits_of, probe_rows

__all__ = [
    "Difference",
    "Exported",
    "MergeCheck",
    "Part",
    "check_mergeable",
    "checks",
    "difference",
    "export",
    "logits_of",
    "merge",
    "probe_rows",
]
