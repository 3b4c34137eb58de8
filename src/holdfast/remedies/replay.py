"""Replay: rows of old text are mixed into every batch of new text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from holdfast._errors import BadInput, Unsupported
from holdfast.data.rows import Row, collate
from holdfast.rule import REPLAYED, Batch, Rule, State, Window, rules
from holdfast.run import Run


@rules.register("replay")
class Replay(Rule):
    """Adds rows of `source` to every micro-batch, so that `share` of its rows are old (0 <= share < 1).

    The new rows stay what they are: a share of 0.25 adds one old row to three new ones. With `labels` the old rows
    are learnt by cross-entropy; without, they only carry the penalties of other rules (distillation). Rows are drawn
    without replacement until all were seen. Robins (1995), "Catastrophic forgetting, rehearsal and pseudorehearsal".
    """

    def __init__(self, source: Sequence[Row], share: float = 0.25, labels: bool = True, pad_id: int = 0):
        if not 0 <= share < 1:
            raise BadInput(f"replay: share is a part of the batch, 0 <= share < 1, not {share}.")
        if not source and share:
            raise BadInput("replay: the source has no rows. Give it a text, or `self` for text sampled from the base.")
        self.source, self.share, self.labels, self.pad_id = list(source), share, labels, pad_id
        self._order: list[int] = []
        self._owed = 0.0

    def batch(self, run: Run, window: Window) -> Window:
        return [self._mixed(run, batch) for batch in window] if self.share else window

    def state(self) -> State:
        return {"order": list(self._order), "owed": self._owed}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        self._order, self._owed = list(state["order"]), float(state["owed"])

    def _mixed(self, run: Run, batch: Batch) -> Batch:
        self._owed += len(batch["input_ids"]) * self.share / (1 - self.share)
        count = int(self._owed + 1e-9)
        self._owed -= count
        index, processes = run.process
        drawn = self._draw(run, count * processes)[index * count : (index + 1) * count]
        old = collate([self.source[i] for i in drawn], self.pad_id) if count else {}
        if old and not self.labels:
            old["labels"] = torch.full_like(old["labels"], -100)
        return joined(batch, old, self.pad_id)

    def _draw(self, run: Run, count: int) -> list[int]:
        while len(self._order) < count:
            self._order += torch.randperm(len(self.source), generator=run.generator(self)).tolist()
        drawn, self._order = self._order[:count], self._order[count:]
        return drawn


def joined(new: Batch, old: Batch, pad_id: int) -> Batch:
    """New rows and then old rows in one batch, right-padded to one length, with the old ones marked as replayed."""
    unknown = set(new) - {"input_ids", "labels", "attention_mask", REPLAYED}
    if unknown:
        raise Unsupported(
            f"replay cannot add rows to batches with {', '.join(sorted(unknown))}; use padded or packed rows."
        )
    rows = len(new["input_ids"])
    device = new["input_ids"].device
    marks = new.get(REPLAYED, torch.zeros(rows, dtype=torch.bool, device=device))
    if not old:
        return {**new, REPLAYED: marks}
    length = max(new["input_ids"].shape[1], old["input_ids"].shape[1])
    fill = {"input_ids": pad_id, "labels": -100}
    if _ragged(new, length) or _ragged(old, length):
        fill["attention_mask"] = 0
        for part in (new, old):
            part.setdefault("attention_mask", torch.ones_like(part["input_ids"]))
    both = {k: torch.cat([_padded(new[k], length, v), _padded(old[k].to(device), length, v)]) for k, v in fill.items()}
    more = torch.ones(len(old["input_ids"]), dtype=torch.bool, device=device)
    return {**both, REPLAYED: torch.cat([marks, more])}


def _ragged(batch: Batch, length: int) -> bool:
    return "attention_mask" in batch or batch["input_ids"].shape[1] < length


def _padded(rows: Tensor, length: int, value: int) -> Tensor:
    return pad(rows, (0, length - rows.shape[1]), value=value)
