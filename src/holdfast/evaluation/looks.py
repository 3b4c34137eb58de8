"""Looks at a model in training: what it learnt and kept, with alarms, trends and what they foretell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from scipy.stats import linregress, t
from torch import Tensor, nn

from holdfast.before import unprompted
from holdfast.data.rows import Row
from holdfast.evaluation.alarm import Alarm, alarm
from holdfast.evaluation.curve import EXPLAINED, LEAST, crossing, fits
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.statistics import Interval, paired

MOST, FEWEST = 128, 32
"""Rows of a text that a look reads, at most and at least, where nobody says."""

WISHED = 16
"""Looks that a run is given where there is time for them."""

UNTOLD = 64
"""Rows of a text that a look reads where nothing is known of what a step costs."""

FORWARD = 0.5
"""What reading a token costs of learning from it; a third by operations, more where batches are small."""

ERROR = 0.05
"""The chance of any false alarm in a run, over all its looks and texts."""

TREND = 8
"""Looks that the slope of a trend is told from."""

Line = tuple[str, dict[str, Any]]
"""A line of a run's log: its kind and its figures."""


@dataclass
class Seen:
    """One text so far: at each look its step, the learning rates added up by then, the rise and its standard error."""

    looks: list[tuple[int, float, float, float]] = field(default_factory=list)
    alarmed: bool = False


@dataclass
class Clock:
    """Seconds that looks took of those since the first step; learning rates added up, and their peak."""

    looking: float = 0.0
    running: float = 0.0
    rates: float = 0.0
    peak: float = 0.0

    @property
    def share(self) -> float:
        """What looking took of the time."""
        return self.looking / self.running if self.running else 0.0


class Looks:
    """Which rows are read when, and what they say: `every` steps, `rows` of each text.

    Whichever of the two is None follows from `share`, the part of the training time that looks may take: as many looks
    as are wished for, with as many rows as that leaves time for; fewer looks where that would be too few rows. It is
    reckoned in tokens, so that the same run looks the same way again. Where the clock then says that looks take more,
    they are made half as often, unless `every` was given. `margins` are the rises in nats per token beyond which a
    text gives an alarm. `agree` makes figures alike in all processes.
    """

    def __init__(
        self,
        learnt: Mapping[str, Sequence[Row]],
        kept: Mapping[str, Sequence[Row]],
        *,
        every: int | None = None,
        rows: int | None = None,
        share: float = 0.1,
        margins: Mapping[str, float] | None = None,
        pad_id: int = 0,
    ):
        self.learnt, self.kept = dict(learnt), dict(kept)
        self.every, self.rows, self.share, self.pad_id = every, rows, share, pad_id
        self.margins = dict(margins or {})
        self.before: dict[str, SequenceLosses] = {}
        self.seen: dict[str, Seen] = {name: Seen() for name in self.kept}
        self.clock, self.count, self.next = Clock(), 0, every or 0
        self.planned, self._fixed = every is not None and rows is not None, every is not None
        self.agree: Callable[[Tensor], Tensor] = lambda figure: figure

    @property
    def texts(self) -> dict[str, Sequence[Row]]:
        """All texts, each with the rows that may be read."""
        most = self.rows or MOST
        return {name: rows[:most] for name, rows in {**self.learnt, **self.kept}.items()}

    def baseline(self, model: nn.Module, given: Mapping[str, SequenceLosses] | None = None) -> None:
        """Score the texts before anything moves, but for those whose losses are given."""
        given = given or {}
        for name, rows in self.texts.items():
            known = given.get(name)
            with unprompted(model):
                self.before[name] = self._losses(model, rows) if known is None else known.first(len(rows))

    def plan(self, tokens: float, total: int | None) -> Line | None:
        """Settle `every` and `rows` for steps of so many tokens, once; the line that says so, if it was open."""
        if self.planned:
            return None
        read = sum(_mean_length(rows) for rows in self.texts.values())
        if not tokens:  # the host did not say what a step reads
            self.rows = self.rows or UNTOLD
        allowed = self.share * tokens / FORWARD / max(read, 1.0)  # rows of every text, per step
        self.every = self.every or max(1, (total or 100 * WISHED) // WISHED)
        if self.rows is None:
            most = max(map(len, self.texts.values()), default=1)
            fewest = min(FEWEST, most)
            if allowed * self.every < fewest and self.next == 0:
                self.every = math.ceil(fewest / max(allowed, 1e-9))
            self.rows = min(max(int(allowed * self.every), fewest), most)
        elif self.next == 0 and tokens:
            self.every = max(self.every, math.ceil(self.rows / max(allowed, 1e-9)))
        if total:
            self.every = min(self.every, total)
        self.next, self.planned = self.every, True
        self.before = {name: losses.first(self.rows) for name, losses in self.before.items()}
        return "monitor", {"every": self.every, "rows": self.rows, "share": self.share}

    def passed(self, rate: float, seconds: float) -> None:
        """A step was made at a learning rate, so many seconds after the one before."""
        self.clock.rates += rate
        self.clock.peak = max(self.clock.peak, rate)
        self.clock.running += seconds

    def due(self, step: int) -> bool:
        """Whether it is time to look."""
        return self.planned and step >= self.next

    def look(self, model: nn.Module, step: int) -> Iterator[Line]:
        """Read the texts, and say what they say."""
        assert self.every is not None
        self.count += 1
        for name in self.learnt:
            rise = self._rise(model, name)
            yield "learn", {"text": name, "gain": -rise.mean, "low": -rise.high, "high": -rise.low, "n": rise.n}
        for name in self.kept:
            yield from self._kept(name, step, self._rise(model, name))
        self.next = step + self.every

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What is done here counts as looking."""
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        self.clock.looking += took
        self.clock.running += took

    def slower(self) -> Line | None:
        """Look half as often from now on, where looking took a larger share of the time than it may; says so."""
        assert self.every is not None
        looking, running = (float(self.agree(torch.tensor(x))) for x in (self.clock.looking, self.clock.running))
        if self._fixed or running < 1.0 or (share := looking / running) <= self.share:
            return None
        self.next, self.every = self.next + self.every, 2 * self.every
        text = f"Looking took {share:.0%} of the time, {self.share:.0%} are allowed: from now on every"
        return "note", {"text": f"{text} {self.every} steps."}

    def told(self) -> dict[str, Any]:
        """What looking cost, for a certificate."""
        clock = self.clock
        figures = {"share": clock.share, "stated": self.share, "seconds": round(clock.looking, 2)}
        return {**figures, "looks": self.count, "rows": self.rows, "every": self.every}

    def state(self) -> dict[str, Any]:
        """What changes as the run goes on."""
        return {
            "every": self.every,
            "rows": self.rows,
            "next": self.next,
            "count": self.count,
            "planned": self.planned,
            "clock": vars(self.clock).copy(),
            "seen": {name: [[list(look) for look in seen.looks], seen.alarmed] for name, seen in self.seen.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.every, self.rows, self.next, self.count = (state[key] for key in ("every", "rows", "next", "count"))
        self.planned, self.clock = state["planned"], Clock(**state["clock"])
        self.seen = {n: Seen([_look(look) for look in looks], alarmed) for n, (looks, alarmed) in state["seen"].items()}
        if self.planned and self.rows is not None:
            self.before = {name: losses.first(self.rows) for name, losses in self.before.items()}

    def _kept(self, name: str, step: int, rise: Interval) -> Iterator[Line]:
        seen, margin = self.seen[name], self.margins.get(name)
        seen.looks.append((step, self.clock.rates, rise.mean, rise.se))
        bounds = {"low": rise.low, "high": rise.high, "upper": rise.upper}
        yield "probe", {"text": name, "rise": rise.mean, **bounds, "n": rise.n}
        if (foretold := forecast(seen, margin, self.clock.peak)) is not None:
            yield "forecast", {"text": name, **foretold}
        if margin is None:
            return
        raised = alarm(name, step, self.count, rise, margin, ERROR / len(self.margins))
        if raised is not None and not seen.alarmed:
            yield "alarm", _told(raised)
        seen.alarmed = raised is not None or (seen.alarmed and rise.mean > margin)

    def _rise(self, model: nn.Module, name: str) -> Interval:
        return paired(self.before[name], self._losses(model, self.texts[name]), resamples=200)

    def _losses(self, model: nn.Module, rows: Sequence[Row]) -> SequenceLosses:
        losses = sequence_losses(model, rows, pad_id=self.pad_id)
        return replace(losses, total=self.agree(losses.total))


def forecast(seen: Seen, margin: float | None, peak: float = 1.0) -> dict[str, Any] | None:
    """The slope of the last looks per 100 steps, and when a fitted curve crosses the margin; None before five looks.

    The slope's interval is that of least squares (Student); `crossing`, with `low` and `high`, is a step, told on the
    assumption that training goes on at its mean pace of full steps so far; None where the curve never gets there, or
    explains too little of what was seen.
    """
    if len(seen.looks) < LEAST:
        return None
    steps, rates, rises, errors = zip(*seen.looks, strict=True)
    full = [rate / peak if peak else 0.0 for rate in rates]
    last = slice(-TREND, None)
    line = linregress(steps[last], rises[last])
    half = float(t.ppf(0.975, len(steps[last]) - 2)) * float(line.stderr)
    told = {"slope": 100 * line.slope, "slope_low": 100 * (line.slope - half), "slope_high": 100 * (line.slope + half)}
    found = dict.fromkeys(("crossing", "low", "high"))
    if margin is not None and min(full) > 0 and all(b > a for a, b in pairwise(full)):
        weighed = errors if all(0 < error < math.inf for error in errors) else None
        best = next(iter(fits(full, rises, weighed)), None)
        if best is not None and best.r2 >= EXPLAINED:
            pace = full[-1] / steps[-1]
            found = {key: None if x is None else x / pace for key, x in crossing(best, margin, full[-1]).items()}
    return {**told, **found, "budget": margin}


def _told(raised: Alarm) -> dict[str, Any]:
    figures = {"rise": raised.rise, "lower": raised.lower, "margin": raised.margin, "level": 0.95}
    return {"text": raised.text, "look": raised.look, **figures, "says": str(raised)}


def _look(values: Sequence[float]) -> tuple[int, float, float, float]:
    step, full, rise, error = values
    return int(step), float(full), float(rise), float(error)


def _mean_length(rows: Sequence[Row]) -> float:
    return sum(len(row["input_ids"]) for row in rows) / max(len(rows), 1)
