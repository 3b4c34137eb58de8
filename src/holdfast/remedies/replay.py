"""Replay: rows of old text are mixed into every batch of new text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from holdfast._errors import BadInput, Unsupported
from holdfast.data.mixing import Mixture
from holdfast.data.rows import Row, collate
from holdfast.objective import items
from holdfast.params.select import Select, parse
from holdfast.remedies.curves import follow, report
from holdfast.remedies.draws import Draw, Priority, drawing
from holdfast.remedies.reach import reaching, refuse
from holdfast.remedies.schedules import ENDLESS, Governed, Schedule, checked, schedule
from holdfast.rule import REPLAYED, Batch, Rule, State, Window, rules
from holdfast.run import Run


@rules.register("replay")
class Replay(Rule):
    """Adds rows of `source` to every micro-batch, so that `share` of its rows are old (0 <= share < 1).

    The new rows stay what they are: a share of 0.25 adds one old row to three new ones. With `labels` the old rows
    are learnt by cross-entropy; without, they only carry the penalties of other rules (distillation). Robins (1995),
    "Catastrophic forgetting, rehearsal and pseudorehearsal". Where several `replay` rules stand in the list, what the
    earlier ones added counts as new to the later ones: shares of 0.33 and 0.25 give a quarter of the rows each.

    `source` is any sequence of rows (a `Reservoir` too), or a mapping of names to such, which take turns. `share` may
    follow a schedule: linear, cosine, periodic or governed (see `schedules`), or any callable (completed steps, steps
    in all) -> share. `draw` says which rows come: shuffled (none twice before all were seen), by `loss` or by its
    `increase` (see `draws`), or by a function (run, rows) -> numbers of one's own.

    `layers`, a selection, lets the loss of the old rows reach only those parameters; the old rows then take a forward
    pass of their own, with the same weight per token as the new ones. Every `look` steps (0: never) the loss of each
    source is written to the journal.
    """

    def __init__(
        self,
        source: Sequence[Row] | Mapping[str, Sequence[Row]],
        share: float | str | Mapping[str, Any] | Schedule = 0.25,
        labels: bool = True,
        draw: str | Mapping[str, Any] | Priority | Draw = "shuffled",
        layers: Select | str | None = None,
        look: int = 50,
        pad_id: int = 0,
    ):
        self.share, self.draws = schedule(share), drawing(draw)
        self.source = Mixture(source) if isinstance(source, Mapping) else source
        if not len(self.source) and self.share:
            raise BadInput("replay: the source has no rows. Give it a text, or `self` for text sampled from the base.")
        if layers is not None and not labels:
            raise BadInput("replay: `layers` narrows what the old rows' own loss reaches; `labels: false` leaves none.")
        if isinstance(self.share, Governed):
            self.strength = 1.0
        self.labels, self.look, self.pad_id = labels, look, pad_id
        self.layers = parse(layers) if isinstance(layers, str) else layers
        self._owed = 0.0
        self._learnt, self._micro_batches = 1.0, 1

    def hooks(self) -> frozenset[str]:
        return super().hooks() - (frozenset() if self.layers is not None else {"penalty"})

    def begin(self, run: Run) -> None:
        if callable(self.share) and not isinstance(self.share, ENDLESS) and not run.total:
            raise BadInput("replay: the schedule of its share goes by the number of steps; give the run its `total`.")
        if self.layers is not None:
            refuse(run, "replay", self.layers)
        if len(self.source):
            self.draws.begin(run, self.source, run.generator(self))
            report(run, self.source)

    def batch(self, run: Run, window: Window) -> Window:
        if not self._share(run):
            return window
        if self.layers is None:
            return [joined(batch, self._old(run, batch), self.pad_id) for batch in window]
        self._learnt, self._micro_batches = sum(items(run.model, batch) for batch in window), len(window)
        return window

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor | None:
        """Where `layers` are given: the summed loss of the old rows over the number of new tokens in the step."""
        old = self._old(run, batch) if self.layers is not None and self._share(run) else {}
        if not old or self.layers is None:
            return None
        old = {key: value.to(batch["input_ids"].device) for key, value in old.items()}
        mean: Tensor = reaching(run, self.layers, old).loss
        return mean * items(run.model, old) * self._micro_batches / max(1, self._learnt)

    def after(self, run: Run) -> None:
        if self.look and run.step % self.look == 0 and len(self.source):
            follow(run, self.source, self._share(run), self.pad_id)

    def state(self) -> State:
        return {"draws": self.draws.state(), "owed": self._owed}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        self.draws.restore(state["draws"])
        self._owed = float(state["owed"])

    def _share(self, run: Run) -> float:
        """The share of old rows in the step to come."""
        if isinstance(self.share, Governed):
            return self.share.at(self.strength or 0.0)
        return checked(self.share(run.step, run.total or 0), "share") if callable(self.share) else self.share

    def _old(self, run: Run, batch: Batch) -> Batch:
        """The rows that belong with a micro-batch; nothing where a whole row is not yet owed."""
        share = self._share(run)
        self._owed += len(batch["input_ids"]) * share / (1 - share)
        count = int(self._owed + 1e-9)
        self._owed -= count
        index, processes = run.process
        drawn = self.draws.draw(run, self.source, run.generator(self), count * processes)
        old = (
            collate([self.source[i] for i in drawn[index * count : (index + 1) * count]], self.pad_id) if count else {}
        )
        if old and not self.labels:
            old["labels"] = torch.full_like(old["labels"], -100)
        return old


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
    longest = {key: max(new[key].shape[1], old[key].shape[1]) for key in ("input_ids", "labels")}
    length = longest["attention_mask"] = longest["input_ids"]
    fill = {"input_ids": pad_id, "labels": -100}
    if _ragged(new, length) or _ragged(old, length):
        fill["attention_mask"] = 0
        for part in (new, old):
            part.setdefault("attention_mask", torch.ones_like(part["input_ids"]))
    both = {
        k: torch.cat([_padded(part[k].to(device), longest[k], value) for part in (new, old)])
        for k, value in fill.items()
    }
    more = torch.ones(len(old["input_ids"]), dtype=torch.bool, device=device)
    return {**both, REPLAYED: torch.cat([marks, more])}


def _ragged(batch: Batch, length: int) -> bool:
    return "attention_mask" in batch or batch["input_ids"].shape[1] < length


def _padded(rows: Tensor, length: int, value: int) -> Tensor:
    return pad(rows, (0, length - rows.shape[1]), value=value)
