"""What becomes of each source of replay: its variety before the run, its loss while the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from holdfast.data.mixing import Mixture
from holdfast.data.rows import Row
from holdfast.evaluation.loss import sequence_losses
from holdfast.remedies.buffer import Reservoir
from holdfast.remedies.diversity import diversity, spread
from holdfast.run import Run

LOOKED = 8
"""Rows of each source whose loss is followed; they are always the same ones."""

SAMPLED = 512
"""Rows of each source whose variety is reported; more say nothing new, and take time."""


def parts(source: Sequence[Row]) -> dict[str, Sequence[Row]]:
    """The rows of each named source, and of each task of a reservoir; `replay` where nothing has a name."""
    if isinstance(source, Reservoir):
        return source.parts
    if not isinstance(source, Mixture):
        return {"replay": source}
    found: dict[str, Sequence[Row]] = {}
    for name, rows in source.sources:
        inner = rows.parts if isinstance(rows, Reservoir) else {"": rows}
        found |= {f"{name}/{part}" if part else name: some for part, some in inner.items()}
    return found


def report(run: Run, source: Sequence[Row]) -> None:
    """A line of kind "buffer" for each source: how many rows there are, and how varied those looked at are."""
    for name, rows in parts(source).items():
        figures = asdict(diversity([rows[i] for i in spread(len(rows), SAMPLED)]))
        run.log("buffer", text=name, **{**figures, "rows": len(rows)})


def follow(run: Run, source: Sequence[Row], share: float, pad_id: int) -> None:
    """A line of kind "replay" for each source: its loss in nats per token, and the present share of old rows."""
    with run.aside():
        for name, rows in parts(source).items():
            losses = sequence_losses(run.model, [rows[i] for i in spread(len(rows), LOOKED)], pad_id=pad_id)
            if int(losses.tokens.sum()):
                run.log("replay", text=name, loss=losses.mean(), share=share, n=len(losses))
