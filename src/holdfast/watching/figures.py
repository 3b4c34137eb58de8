"""The figures of a run on its way: how far it is, its losses, its guarded texts against their budgets, its governor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.evaluation.report import RunRecord
from holdfast.evaluation.report.content import Bar, Block, Listing, Note, Progress, Section, Table
from holdfast.evaluation.report.headline import NOTHING, between, change, nats, precise, seconds
from holdfast.evaluation.report.records import Entry, number, percent
from holdfast.evaluation.report.sections import decision_table, strengths_of
from holdfast.evaluation.report.watchfulness import alarm_table, forecasts

_RECENT = 5  # decisions and alarms that are shown, and lines that the speed is taken from


@dataclass(frozen=True)
class Pace:
    """How far a run is: steps done, all steps and steps a second, as far as they are known."""

    step: int
    of: float
    speed: float
    ended: bool = False

    @property
    def left(self) -> float:
        """Seconds that are left of training."""
        return (self.of - self.step) / self.speed if self.speed > 0 else math.nan

    @property
    def said(self) -> str:
        """All of it in words."""
        if not self.step:
            return "preparing"
        of = f" of {self.of:.0f}" if math.isfinite(self.of) else ""
        if self.ended:
            return f"step {self.step}{of}"
        fast = f", {self.speed:.3g} steps a second" if math.isfinite(self.speed) else ""
        left = f", {seconds(self.left)} left" if self.left > 0 else ""
        return f"step {self.step}{of}{fast}{left}"


def pace(run: RunRecord, recipe: Mapping[str, Any]) -> Pace:
    """How far a run is, by its log; the speed is that of the last few lines."""
    train = run.lines("train")
    step = max((int(line["step"]) for line in run.log), default=0)
    recent = [line for line in train if math.isfinite(number(line, "seconds"))][-_RECENT:]
    speed = math.nan
    if len(recent) > 1 and (spent := number(recent[-1], "seconds") - number(recent[0], "seconds")) > 0:
        speed = (recent[-1]["step"] - recent[0]["step"]) / spent
    return Pace(step, _steps(train, recipe), speed, run.certificate is not None)


def _steps(train: Sequence[Entry], recipe: Mapping[str, Any]) -> float:
    """All steps of a run: as its recipe says, or by how much of its epochs is done."""
    wanted = recipe.get("train")
    wanted = wanted if isinstance(wanted, Mapping) else {}
    steps = number(wanted, "max_steps")
    if steps > 0:
        return steps
    epochs, done = number({"num_train_epochs": 3.0, **wanted}, "num_train_epochs"), math.nan
    if train:
        done = number(train[-1], "epoch")
    return math.ceil(train[-1]["step"] * epochs / done) if done > 0 else math.nan


def figures(run: RunRecord, recipe: Mapping[str, Any]) -> list[Section]:
    """All that a run shows on its way."""
    found = pace(run, recipe)
    parts: list[Block] = [Progress(found.step, found.of, found.said), Listing(_newest(run))]
    return [
        Section("", parts),
        Section("Guarded texts", [*_guarded(run), *map(Note, forecasts(run).values())]),
        Section("Alarms", [alarm_table(run, run.lines("alarm")[-_RECENT:])] if run.lines("alarm") else []),
        Section("Governor", _governor(run)),
        Section("Notes", [Note(f"step {line['step']}: {line.get('text', NOTHING)}") for line in run.lines("note")]),
    ]


def _newest(run: RunRecord) -> dict[str, object]:
    """The last loss and learning rate, and the last gain on each new text."""
    train = run.lines("train")
    last = train[-1] if train else {}
    found: dict[str, object] = {"training loss": precise(number(last, "loss"))}
    if math.isfinite(rate := number(last, "learning_rate")):
        found["learning rate"] = f"{rate:.3g}"
    for text in run.texts("learn"):
        look = run.series("learn", text)[-1]
        ends = between(number(look, "low"), number(look, "high"), nats)
        found[f"gain on {text}"] = f"{nats(number(look, 'gain'))} {ends} nats at step {look['step']}"
    return found


def _guarded(run: RunRecord) -> list[Block]:
    """A bar for the last look at each guarded text, against its budget."""
    limits = run.limits()
    return [_bar(text, run.series("probe", text)[-1], limits.get(text, math.nan)) for text in run.texts("probe")]


def _bar(text: str, look: Entry, limit: float) -> Bar:
    rise, low, high = (number(look, key) for key in ("rise", "low", "high"))
    of = f" of {change(limit).lstrip('+')}" if math.isfinite(limit) else ""
    said = f"{change(rise)}{of} {between(low, high, change)} at step {look['step']}"
    return Bar(text, percent(rise), percent(low), percent(high), percent(limit), said)


def _governor(run: RunRecord) -> list[Block]:
    """The strengths as they stand, and the last decisions, the newest first."""
    lines = run.lines("governor")
    if not lines:
        return []
    strengths = {name: f"{value:.4g}" for name, value in strengths_of(lines[-1]).items()}
    shown: list[Block] = [Listing({f"strength of {name}": value for name, value in strengths.items()})]
    table: Table = decision_table(lines[: -_RECENT - 1 : -1])
    return [*(shown if strengths else []), table]
