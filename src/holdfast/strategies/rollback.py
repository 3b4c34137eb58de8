"""Rollback: the best state of a run is kept, and brought back when the run gets worse."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from holdfast._errors import BadCheckpoint, BadInput
from holdfast.data.rows import Row
from holdfast.params.inventory import Param
from holdfast.rule import Rule, State, rules
from holdfast.run import Run
from holdfast.snapshots import load_snapshot, save_snapshot, saved_step
from holdfast.strategies.measuring import Metric, chosen, looked

logger = logging.getLogger(__name__)


@rules.register("rollback")
class Rollback(Rule):
    """Every `every` steps looks at a figure; saves the best state, and brings it back when the figure falls too far.

    The figure is `metric`, the mean loss on `samples` rows of `source`, or the training loss since the last look; it
    is averaged over the last `window` looks. Too far is more than `threshold` below the best: absolute for a score
    (`higher_is_better`), relative to the best for a loss, so 0.05 is 0.05 accuracy or 5 % of the loss. A figure that is
    not finite has fallen too far.

    The best state is the file `best` in `folder`; the states at the other looks are `step-N` beside it, the `keep`
    latest. Without a folder they are in a temporary one and go when the run ends. A folder belongs to one run: older
    `step-N` files in it are deleted. With several processes each writes files of its own.

    Brought back, bit for bit: weights, optimiser, scheduler, random states, and the states of the rules (put rollback
    last, so that all have had their say). Not brought back: `run.step`, the trainer's step and the data, which go
    on, so that no batch comes twice and the run still ends when it should. After each rollback the learning rate is
    `lower` times what it was; at the `patience`-th the run is brought back and stopped, so that it cannot loop for
    ever.
    """

    def __init__(
        self,
        metric: Metric | None = None,
        source: Sequence[Row] | None = None,
        higher_is_better: bool = False,
        threshold: float = 0.05,
        every: int = 50,
        window: int = 1,
        keep: int = 2,
        patience: int = 3,
        lower: float = 0.5,
        folder: str | Path | None = None,
        best: str = "best_checkpoint",
        samples: int = 64,
        pad_id: int = 0,
    ):
        if threshold < 0 or every < 1 or window < 1 or keep < 0 or patience < 1 or not 0 < lower <= 1:
            raise BadInput(
                "rollback needs threshold >= 0, every >= 1, window >= 1, keep >= 0, patience >= 1 and 0 < lower <= 1."
            )
        self.metric = chosen("rollback", metric, source, samples, pad_id)
        self.higher_is_better, self.threshold = higher_is_better, threshold
        self.every, self.window, self.keep, self.patience, self.lower = every, window, keep, patience, lower
        self.folder, self.best = None if folder is None else Path(folder), best
        self.rollbacks = 0
        self.best_value: float | None = None
        self._best_step = -1
        self._values: list[float] = []
        self._losses: list[Tensor] = []
        self._steps: list[int] = []
        self._temporary: TemporaryDirectory[str] | None = None

    def begin(self, run: Run) -> None:
        for file in [] if self.folder is None else self.folder.glob(f"step-*{_part(run)}"):
            if re.fullmatch(rf"step-\d+{re.escape(_part(run))}", file.name):
                file.unlink()

    def best_file(self, run: Run) -> Path:
        """Where this process keeps the best state."""
        return self._place() / f"{self.best}{_part(run)}"

    def rate(self, run: Run, param: Param, learning_rate: float) -> float:
        return learning_rate * float(self.lower**self.rollbacks)

    def after(self, run: Run) -> None:
        if self.metric is None and run.loss is not None:
            self._losses.append(run.loss.detach())
        if run.step % self.every:
            return
        if self.metric is not None:
            self.observe(run, looked(run, self.metric))
        elif self._losses:
            loss, self._losses = torch.stack(self._losses).mean(), []
            self.observe(run, float(run.agreed(loss)))

    def observe(self, run: Run, value: float) -> bool:
        """Take one value of the figure, save or go back as it says; returns whether the run was brought back."""
        self._values = [*self._values, float(value)][-self.window :]
        figure = fmean(self._values)
        if self.best_value is None and not math.isfinite(figure):
            return False
        fall = 0.0 if self.best_value is None else self._fall(figure, self.best_value)
        if fall > self.threshold:
            self._go_back(run, figure)
        elif self.best_value is None or fall < 0:
            self.best_value, self._best_step = figure, run.step
            save_snapshot(run, self.best_file(run))
        else:
            self._save(run)
        return fall > self.threshold

    def state(self) -> State:
        return {
            "best_value": self.best_value,
            "best_step": self._best_step,
            "values": list(self._values),
            "losses": [float(loss) for loss in self._losses],
            "steps": list(self._steps),
            "rollbacks": self.rollbacks,
        }

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        self._set(run, state)
        if self.best_value is not None and not self._knows_best(run):
            logger.warning("The best state in %s is gone or a later one; the next look begins anew.", self.best)
            self.best_value = None

    def end(self, run: Run) -> None:
        self._losses = []
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _set(self, run: Run, state: State) -> None:
        self.best_value, self._best_step = state["best_value"], state["best_step"]
        self._values, self._steps, self.rollbacks = list(state["values"]), list(state["steps"]), state["rollbacks"]
        device = next(iter(run.tensors.values())).device
        self._losses = [torch.tensor(loss, device=device) for loss in state["losses"]]

    def _fall(self, figure: float, best: float) -> float:
        """How far a figure is below the best, as `threshold` counts; negative where it is better."""
        if not math.isfinite(figure):
            return math.inf
        if self.higher_is_better:
            return best - figure
        return (figure - best) / abs(best) if best else math.copysign(math.inf, figure) if figure else 0.0

    def _go_back(self, run: Run, figure: float) -> None:
        ours = {**self.state(), "values": [], "losses": [], "rollbacks": self.rollbacks + 1}
        step, stopped = run.step, run.stopped
        load_snapshot(run, self.best_file(run))
        self._set(run, ours)
        back, run.step, run.stopped = run.step, step, stopped
        text = f"rolled back to step {back}: the metric was {figure:.4g} and {self.best_value:.4g} at its best"
        run.log("note", text=text)
        if self.rollbacks >= self.patience:
            run.stop(f"rolled back {self.rollbacks} times; the best state is left in the model")

    def _save(self, run: Run) -> None:
        """Save this look's state; the oldest goes when there are more than `keep`."""
        if not self.keep:
            return
        save_snapshot(run, self._place() / f"step-{run.step}{_part(run)}")
        self._steps = [*(step for step in self._steps if step != run.step), run.step]
        for step in self._steps[: -self.keep]:
            (self._place() / f"step-{step}{_part(run)}").unlink(missing_ok=True)
        self._steps = self._steps[-self.keep :]

    def _place(self) -> Path:
        if self.folder is not None:
            return self.folder
        if self._temporary is None:
            self._temporary = TemporaryDirectory(prefix="holdfast-")
        return Path(self._temporary.name)

    def _knows_best(self, run: Run) -> bool:
        """Whether the best file is there and is the one that was saved at the step that is remembered."""
        try:
            return saved_step(self.best_file(run)) == self._best_step
        except BadCheckpoint:
            return False


def _part(run: Run) -> str:
    """What tells the files of several processes apart."""
    index, processes = run.process
    return f"-{index}-of-{processes}" if processes > 1 else ""
