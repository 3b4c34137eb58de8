"""The governor: keeps a retention budget by construction, and uses it up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from holdfast._errors import BadInput
from holdfast.before import unprompted
from holdfast.budget import Guard
from holdfast.data.rows import Row, digest, same_rows
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.statistics import Interval, paired
from holdfast.objective import items, loss_of
from holdfast.params.weights import Values, between, copied, local, write
from holdfast.rule import REPLAYED, Rule, State, Window, rules
from holdfast.run import Run

REACH = 1.2
"""How far beyond the final average the last line search may go, as a multiple of the way from the base."""

DECAYING = 1.5
"""The overshoot that linear decay takes back: rises at the peak rate were seen to end at 0.3 to 0.5 times as much."""

GUESSES = 12
"""Looks that one line search may take."""


@rules.register("governor")
class Governor(Rule):
    """Steers the strengths of the other rules so that the guarded texts end just inside their budgets.

    Every `every` steps (20) it judges the running average of the weights since the last look (what annealing will
    leave) on the first `look` rows of each guard, and turns the strengths by (rise / target) ** `response`: tighter
    over the target, looser below it; the first look, at weights that have hardly moved, turns nothing. Under a
    learning rate that decays to zero the rise may stand above the target meanwhile, by `overshoot` (0) times the share
    of the peak rate: annealing takes it back (`DECAYING` was measured). Too loose costs less than too tight, since the
    walk back at the end loses little.

    Weights inside the budget are admitted. Where nothing can be tightened, weights outside are walked back along the
    line from the last admitted ones; `patience` such looks in a row that leave nothing stop the run. After the last
    step the final average is judged on all control rows, walked back as far as it must be, and left in the model.
    `fraction` then says how much of the way was kept.
    """

    closing = 2

    def __init__(
        self,
        guards: Sequence[Guard],
        every: int | None = None,
        look: int = 64,
        response: float = 0.5,
        overshoot: float | None = None,
        confidence: float = 0.995,
        patience: int = 3,
        pad_id: int = 0,
    ):
        if not guards:
            raise BadInput("The governor needs at least one guarded text with a budget.")
        self.guards, self.every, self.look = list(guards), every or 20, look
        self.response, self.overshoot, self._peak = response, overshoot or 0.0, 0.0
        self.confidence, self.patience, self.pad_id = confidence, patience, pad_id
        self.fraction = 1.0
        self._before: dict[str, SequenceLosses] = {}
        self._targets: dict[str, float] = {}
        self._average: Values = {}
        self._counted = 0
        self._admitted: Values = {}
        self._futile = 0
        self._recent: Window = []

    # Hooks ----------------------------------------------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        for guard in self.guards:
            guard.refuse(self.confidence)
        with unprompted(run.model):
            self._before = {g.name: g.before or self._losses(run, g.control) for g in self.guards}
        self._admitted = run.base.values

    def batch(self, run: Run, window: Window) -> Window:
        self._recent = window
        return window

    def after(self, run: Run) -> None:
        self._follow(run)
        if run.step % self.every == 0:
            with run.aside():
                self._look(run)

    def end(self, run: Run) -> None:
        if run.step and self._before and not run.interrupted:
            with run.aside():
                write(run.tensors, self.settled(run))
        self._average, self._admitted, self._recent = {}, {}, []

    def prepared(self) -> State:
        rows = {g.name: digest(g.control) for g in self.guards}
        return {"rows": rows, "before": {n: {"total": s.total, "tokens": s.tokens} for n, s in self._before.items()}}

    def state(self) -> State:
        return {
            "average": self._average,
            "counted": self._counted,
            "admitted": self._admitted,
            "futile": self._futile,
            "peak": self._peak,
            "targets": self._targets,
            "recent": self._recent,
        }

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        if prepared is not None:
            same_rows({g.name: g.control for g in self.guards}, prepared["rows"])
            self._before = {n: SequenceLosses(s["total"], s["tokens"]) for n, s in prepared["before"].items()}
        device = next(iter(run.tensors.values())).device
        self._average = {n: t.to(device) for n, t in state["average"].items()}
        self._admitted = {n: t.to(device) for n, t in state["admitted"].items()}
        self._counted, self._futile, self._peak = state["counted"], state["futile"], state["peak"]
        self._targets = dict(state["targets"])
        self._recent = [{k: t.to(device) for k, t in batch.items()} for batch in state["recent"]]

    # Looking --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _follow(self, run: Run) -> None:
        """Count the present weights into the running average."""
        self._counted += 1
        if self._counted == 1:
            self._average = copied(run.tensors)
            return
        present = [local(run.tensors[n]) for n in self._average]
        torch._foreach_lerp_(list(self._average.values()), present, 1 / self._counted)

    def _look(self, run: Run) -> None:
        """Judge the running average: admit or walk back, then tighten or loosen."""
        rises = self._measure(run, self._average, self.look)
        for guard in self.guards:
            rise = rises[guard.name]
            run.log("probe", text=guard.name, rise=rise.mean, low=rise.low, high=rise.high, upper=rise.upper,
                    budget=guard.limit, n=rise.n)  # fmt: skip
        if not all(math.isfinite(r.mean) for r in rises.values()):
            return
        tunable = [rule for rule in run.rules if rule.strength]
        if self._stretch(rises) >= 1:
            self._admitted, self._futile = {n: t.clone() for n, t in self._average.items()}, 0
            self._say(run, "admitted")
        elif not tunable:
            self._walk_back(run)
        if tunable and run.step > self.every:
            self._steer(run, tunable, self._used(run, rises) / self._allowance(run))
        self._counted = 0

    def _steer(self, run: Run, tunable: list[Rule], used: float) -> None:
        factor = min(max(max(used, 0.0) ** self.response, 0.5), 2.0)
        for rule in tunable:
            rule.strength = (rule.strength or 0.0) * factor
        self._say(run, "tightened" if factor > 1 else "loosened", used=used)

    def _allowance(self, run: Run) -> float:
        """How many times its aim a text may have used by now, since annealing will bring the weights back."""
        rate = max(float(group["lr"]) for group in run.optimizer.param_groups)
        self._peak = max(self._peak, rate)
        return 1 + self.overshoot * rate / self._peak if self._peak else 1.0

    def _walk_back(self, run: Run) -> None:
        """The largest part of the way from the last admitted weights to the average that the budget allows."""
        fraction = self._largest(run, self._admitted, self._average, self.look)
        self._admitted = self._between(run, self._admitted, self._average, fraction)
        run.walk_back(self._admitted, fraction)
        self._futile = self._futile + 1 if fraction < 0.1 else 0
        self._say(run, "walked back", fraction=fraction)
        if self._futile >= self.patience:
            run.stop(f"{self.patience} looks in a row brought less than a tenth of their way inside the budget.")
            self._say(run, "stopped", reason=run.stopped)

    # Settling -------------------------------------------------------------------------------------------------------

    def settled(self, run: Run) -> Values:
        """The weights to leave: the final average as far from the base as the budget allows, or earlier ones if better.

        The line may lead a little beyond the average, where that lowers the loss and uses the budget up.
        """
        base, average = run.base.values, self._average or copied(run.tensors)
        ends = [average] if self._admitted is base or not self._admitted else [average, self._admitted]
        found = []
        for end in ends:
            fraction = self._largest(run, base, end, None, REACH)
            fractions = {fraction, min(fraction, 1.0)}
            found += [(self._learnt(run, base, end, f), f, end) for f in fractions]
            if fraction >= 1:
                break
        _, self.fraction, end = min(found, key=lambda candidate: candidate[0])
        self._say(run, "walked back" if self.fraction < 1 else "admitted", fraction=self.fraction, final=True)
        return self._between(run, base, end, self.fraction)

    def _largest(self, run: Run, start: Values, end: Values, rows: int | None, reach: float = 1.0) -> float:
        """The largest fraction of the way from `start` to `end`, up to `reach`, that few looks find inside the budget.

        Each look says how far the way may stretch; a bracket keeps that honest.
        """
        low, high, fraction = 0.0, math.inf, 1.0
        for _ in range(GUESSES):
            stretch = self._stretch(self._measure(run, self._between(run, start, end, fraction), rows))
            low, high = (fraction, high) if stretch >= 1 else (low, fraction)
            if 1 <= stretch < 1.02 or low == reach:
                break
            guess = min(0.99 * stretch * fraction, reach)
            fraction = guess if low < guess < high else (low + min(high, reach)) / 2
        return low

    def _between(self, run: Run, start: Values, end: Values, fraction: float) -> Values:
        """On the line from `start` to `end`; a LoRA product that starts at zero grows in scale alone."""
        values = between(start, end, fraction)
        for name, param in run.params.items():
            if param.lora and param.lora.side == "A" and not start[param.lora.partner].any():
                values[name] = end[name].clone()
        return values

    def _measure(self, run: Run, values: Values, rows: int | None) -> dict[str, Interval]:
        with run.at(values):
            return {g.name: self._rise(run, g, len(g.control) if rows is None else rows) for g in self.guards}

    def _rise(self, run: Run, guard: Guard, rows: int) -> Interval:
        before = self._before[guard.name]
        before = SequenceLosses(before.total[:rows], before.tokens[:rows])
        return paired(before, self._losses(run, guard.control[:rows]), resamples=200)

    def _stretch(self, rises: Mapping[str, Interval]) -> float:
        """How many times the way from the base may grow before a guarded text meets its aim; below 1 it is too long."""
        found = ((guard, rises[guard.name]) for guard in self.guards)
        return min(guard.stretch(r.mean, r.spread, r.n, self.confidence) for guard, r in found)

    def _used(self, run: Run, rises: Mapping[str, Interval]) -> float:
        """The worst share that a guarded text has used of what the rows of a look may rise by at the end of the run.

        How rises scatter between documents, and how those few rows compare with all, is measured once.
        """
        if not self._targets:
            whole = self._measure(run, self._average, None)
            self._targets = {g.name: self._target(g, rises[g.name], whole[g.name]) for g in self.guards}
        return max(rises[name].mean / target for name, target in self._targets.items())

    def _target(self, guard: Guard, looked: Interval, whole: Interval) -> float:
        alike = looked.mean / whole.mean if min(looked.mean, whole.mean) > 0 else 1.0
        return guard.target(whole.mean, whole.spread, self.confidence) * min(max(alike, 0.5), 2.0)

    @torch.no_grad()
    def _learnt(self, run: Run, start: Values, end: Values, fraction: float) -> float:
        """The loss on the last batches learnt from; where none were seen, the longer way counts as the better."""
        window = [{k: v for k, v in batch.items() if k != REPLAYED} for batch in self._recent]
        if not window:
            return -fraction
        count = sum(items(run.model, batch) for batch in window)
        with run.at(self._between(run, start, end, fraction)):
            loss = sum(float(loss_of(run.model, batch, count, len(window))[0]) for batch in window)
        return float(run.agreed(torch.tensor(loss)))

    def _losses(self, run: Run, rows: Sequence[Row]) -> SequenceLosses:
        losses = sequence_losses(run.model, rows, pad_id=self.pad_id)
        return replace(losses, total=run.agreed(losses.total))

    def _say(self, run: Run, action: str, **figures: object) -> None:
        strengths = {run.name(r): r.strength for r in run.rules if r.strength}
        run.log("governor", action=action, strengths=strengths, **figures)
