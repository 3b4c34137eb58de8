"""What strategies go by: a figure of the run, and the importance of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.data.rows import Row, collate
from holdfast.evaluation.loss import sequence_losses
from holdfast.params.importance import scores
from holdfast.run import Run

Metric = Callable[[Run], float]

BATCH = 8
"""Rows at a time when importance is measured; results do not depend on it."""


def chosen(name: str, metric: Metric | None, source: Sequence[Row] | None, samples: int, pad_id: int) -> Metric | None:
    """A metric of one's own, or the mean loss on the first rows of `source` in nats per token, or None for neither."""
    if metric is not None and source is not None:
        raise BadInput(f"{name} goes by one figure: give it a metric or a source, not both.")
    if source is None:
        return metric
    rows = source[:samples]
    if not rows:
        raise BadInput(f"{name}: the source has no rows to measure a loss on.")
    return lambda run: sequence_losses(run.model, rows, pad_id=pad_id).mean()


def looked(run: Run, metric: Metric) -> float:
    """What the metric says now, the same in every process, with the random state left as it was."""
    with run.aside():
        value = float(metric(run))
    return float(run.agreed(torch.tensor(value, dtype=torch.float64)))


def weighed(run: Run, score: str, source: Sequence[Row] | None, samples: int, pad_id: int) -> dict[str, Tensor]:
    """Importance of each element of what trains, by a score's name; raises UnknownName, and BadInput without rows."""
    rows = list(source or [])[:samples]
    batches = [collate(rows[i : i + BATCH], pad_id) for i in range(0, len(rows), BATCH)]
    options = {"start": run.base.values} if "start" in scores.knobs(score) else {}
    if not batches and score not in ("magnitude", "movement"):
        raise BadInput(f"The score {score!r} is measured on text: give a `source`.")
    with run.aside():
        return scores[score](run.model, batches, paths=list(run.tensors), **options)
