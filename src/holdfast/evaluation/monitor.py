"""The monitor: looks at what is learnt, what is kept and what moves while a run goes on, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.data.rows import Row, digest, same_rows
from holdfast.evaluation.looks import Line, Looks
from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.reaction import Reaction, keep
from holdfast.params.weights import local
from holdfast.rule import Rule, State, rules
from holdfast.run import Run

SAVE = ("none", "alarms", "looks")


@rules.register("monitor")
class Monitor(Rule):
    """Measures the loss on each text against the base now and then, and how far each part of the model moved.

    `learnt` and `kept` map a text's name to its rows; `before` holds losses to compare with where they are not those
    of the model that the run begins with. It looks every `every` steps at `rows` rows of each text; what is None
    follows from `share` (see `Looks`). What it sees stands in the run's journal: lines of kind "learn", "probe",
    "movement", "forecast" (slope and when the margin would be crossed) and "alarm". An alarm, where a text is worse
    than its margin in `margins` (nats per token) for sure, is logged, posted to `webhook`, and with `on_alarm` "stop"
    or "raise" ends the run. `save` writes what moved to `folder`, at alarms or at all looks.
    """

    def __init__(
        self,
        learnt: Mapping[str, Sequence[Row]] | None = None,
        kept: Mapping[str, Sequence[Row]] | None = None,
        every: int | None = None,
        rows: int | None = None,
        share: float = 0.1,
        pad_id: int = 0,
        before: Mapping[str, SequenceLosses] | None = None,
        margins: Mapping[str, float] | None = None,
        on_alarm: str = "log",
        webhook: str | None = None,
        save: str = "none",
        folder: str | Path | None = None,
    ):
        if save not in SAVE or (save != "none" and folder is None):
            raise BadInput(f"`save` is one of {', '.join(SAVE)}, and saving takes a folder; it is {save!r}.")
        self.looks = Looks(
            learnt or {}, kept or {}, every=every, rows=rows, share=share, margins=margins, pad_id=pad_id
        )
        self.reaction, self.save = Reaction(on_alarm, webhook), save
        self.folder = None if folder is None else Path(folder)
        self._given = dict(before or {})
        self._last: float | None = None

    def begin(self, run: Run) -> None:
        _ = run.base
        self.looks.agree = run.agreed
        self.looks.baseline(run.model, self._given)

    def prepared(self) -> State:
        rows = {name: digest(rows) for name, rows in {**self.looks.learnt, **self.looks.kept}.items()}
        before = {name: {"total": s.total, "tokens": s.tokens} for name, s in self.looks.before.items()}
        return {"rows": rows, "before": before}

    def state(self) -> State:
        return self.looks.state()

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        if prepared is not None:
            same_rows({**self.looks.learnt, **self.looks.kept}, prepared["rows"])
            texts = self.looks.texts
            for name, kept in prepared["before"].items():
                whole = SequenceLosses(kept["total"], kept["tokens"]).first(len(texts[name]))
                self.looks.before[name] = whole
        self.looks.restore(state)
        self.looks.agree = run.agreed
        self._last = None
        _ = run.base

    def after(self, run: Run) -> None:
        now = time.perf_counter()
        passed = 0.0 if self._last is None else now - self._last
        self.looks.passed(float(run.optimizer.param_groups[0]["lr"]), passed)
        if not self.looks.planned:
            _say(run, self.looks.plan(_tokens(run), run.total))
        if self.looks.due(run.step):
            with self.looks.timed():
                alarms = self._look(run)
            _say(run, self.looks.slower())
            for alarm in alarms:
                if self.reaction.to({"step": run.step, **alarm}, first=run.process[0] == 0):
                    run.stop(alarm["says"])
        self._last = time.perf_counter()

    def _look(self, run: Run) -> list[dict[str, Any]]:
        """Look, tell and keep; the alarms that were raised."""
        with run.aside():
            lines = list(self.looks.look(run.model, run.step))
        for line in lines:
            _say(run, line)
        run.log("movement", groups=movement(run))
        alarms = [figures for kind, figures in lines if kind == "alarm"]
        if self.save == "looks" or (self.save == "alarms" and alarms):
            self._keep(run)
        return alarms

    def _keep(self, run: Run) -> None:
        """The weights that moved, as one state of the store; the base and these are the whole model."""
        assert self.folder is not None
        if run.process[0] == 0:
            keep(self.folder, run.step, {name: local(run.tensors[name]) for name in sorted(run.moved)})


@torch.no_grad()
def movement(run: Run) -> dict[str, float]:
    """|w - base| / |base| of what trains, by block and component."""
    squares: dict[str, list[Tensor]] = {}
    for name, param in run.params.items():
        base = run.base.values[name]
        moved = local(run.tensors[name]).sub(base).float().square().sum()
        size = base.float().square().sum()
        pair = squares.setdefault(param.place, [torch.zeros_like(moved), torch.zeros_like(size)])
        pair[0] += moved
        pair[1] += size
    shares = {place: run.agreed(torch.stack(pair)) for place, pair in squares.items()}
    return {place: float((moved / size.clamp_min(1e-30)).sqrt()) for place, (moved, size) in shares.items()}


def _say(run: Run, line: Line | None) -> None:
    if line is not None:
        run.log(line[0], **line[1])


def _tokens(run: Run) -> float:
    """Tokens of the step just done, padding too, mean over the processes; 0 where the host did not say."""
    read = sum(batch["input_ids"].numel() for batch in run.window if "input_ids" in batch)
    return float(run.agreed(torch.tensor(float(read)))) if run.window else 0.0
