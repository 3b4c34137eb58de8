"""A section or a block as it stands on a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from holdfast.evaluation.report import RunRecord
from holdfast.evaluation.report.content import Block, Section
from holdfast.evaluation.report.drawing import style
from holdfast.evaluation.report.page import markup


def marked_up(*blocks: Block) -> str:
    """Blocks as HTML."""
    ids = count()
    with style():
        return "\n".join(markup(block, ids) for block in blocks)


def shown(make: Callable[[Sequence[RunRecord]], Section], runs: Sequence[RunRecord]) -> str:
    """What a section says about runs, as HTML."""
    return marked_up(*make(runs).blocks)
