"""The monitor: looks at what is learnt, what is kept and what moves while a run goes on, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from holdfast.data.rows import Row, digest, same_rows
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.statistics import Interval, paired
from holdfast.params.weights import local
from holdfast.rule import Rule, State, rules
from holdfast.run import Run


@rules.register("monitor")
class Monitor(Rule):
    """Every `every` steps, measures the loss on each text against the base and how far each part of the model moved.

    `learnt` and `kept` map a text's name to its rows; `before` holds losses to compare with where they are not those
    of the model that the run begins with. What it sees stands in the run's journal: lines of kind "learn", "probe" and
    "movement".
    """

    def __init__(
        self,
        learnt: Mapping[str, Sequence[Row]] | None = None,
        kept: Mapping[str, Sequence[Row]] | None = None,
        every: int = 20,
        pad_id: int = 0,
        before: Mapping[str, SequenceLosses] | None = None,
    ):
        self.learnt, self.kept = dict(learnt or {}), dict(kept or {})
        self.every, self.pad_id = every, pad_id
        self._given = dict(before or {})
        self._before: dict[str, SequenceLosses] = {}

    def begin(self, run: Run) -> None:
        _ = run.base
        texts = {**self.learnt, **self.kept}
        self._before = {n: self._given.get(n) or self._losses(run, rows) for n, rows in texts.items()}

    def prepared(self) -> State:
        rows = {n: digest(rows) for n, rows in {**self.learnt, **self.kept}.items()}
        return {"rows": rows, "before": {n: {"total": s.total, "tokens": s.tokens} for n, s in self._before.items()}}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        if prepared is not None:
            same_rows({**self.learnt, **self.kept}, prepared["rows"])
            self._before = {n: SequenceLosses(s["total"], s["tokens"]) for n, s in prepared["before"].items()}
        _ = run.base

    def after(self, run: Run) -> None:
        if run.step % self.every:
            return
        with run.aside():
            for name, rows in self.learnt.items():
                rise = self._rise(run, name, rows)
                run.log("learn", text=name, gain=-rise.mean, low=-rise.high, high=-rise.low, n=rise.n)
            for name, rows in self.kept.items():
                rise = self._rise(run, name, rows)
                run.log("probe", text=name, rise=rise.mean, low=rise.low, high=rise.high, upper=rise.upper, n=rise.n)
        run.log("movement", groups=movement(run))

    def _rise(self, run: Run, name: str, rows: Sequence[Row]) -> Interval:
        return paired(self._before[name], self._losses(run, rows), resamples=200)

    def _losses(self, run: Run, rows: Sequence[Row]) -> SequenceLosses:
        return sequence_losses(run.model, rows, pad_id=self.pad_id)


@torch.no_grad()
def movement(run: Run) -> dict[str, float]:
    """|w - base| / |base| of what trains, by block and component."""
    squares: dict[str, list[Tensor]] = {}
    for name, param in run.params.items():
        place = param.component if param.layer is None else f"layers.{param.layer} {param.component}"
        base = run.base.values[name]
        moved = local(run.tensors[name]).sub(base).float().square().sum()
        size = base.float().square().sum()
        pair = squares.setdefault(place, [torch.zeros_like(moved), torch.zeros_like(size)])
        pair[0] += moved
        pair[1] += size
    shares = {place: run.agreed(torch.stack(pair)) for place, pair in squares.items()}
    return {place: float((moved / size.clamp_min(1e-30)).sqrt()) for place, (moved, size) in shares.items()}
