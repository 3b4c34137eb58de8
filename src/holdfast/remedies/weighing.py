"""What is weighed in a run, and the rows that it is weighed on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from holdfast.data.rows import Row, collate
from holdfast.remedies.carried import weighed
from holdfast.rule import Batch
from holdfast.run import Run


def paths(run: Run) -> set[str]:
    """The weights that a run moves: its own trainable ones, and those below LoRA factors."""
    return {weighed(p) for p in run.params.values()}


def batched(rows: Sequence[Row], size: int, pad_id: int, device: torch.device) -> list[Batch]:
    """Rows in batches of so many, on a device."""
    parts = (collate(rows[i : i + size], pad_id) for i in range(0, len(rows), size))
    return [{k: v.to(device) for k, v in part.items()} for part in parts]
