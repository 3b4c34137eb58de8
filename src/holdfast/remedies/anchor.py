"""What anchors with importance share: a pull to the start of the run, and importance summed up from task to task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.distributed.tensor import DTensor

from holdfast._errors import BadInput, Unsupported
from holdfast.before import Base
from holdfast.remedies.carried import Importance, read, weighed, write
from holdfast.remedies.coefficients import Layers, coefficients
from holdfast.remedies.pull import pull, refuse
from holdfast.rule import Kind, Move, Rule, State
from holdfast.run import Run

Earlier = Mapping[str, Tensor] | str | Path | None
"""Importance of earlier tasks: by path, or the file that the run before wrote."""


class Anchor(Rule):
    """Minimises ½ strength Σ c F (w - base)² besides the loss, as a pull after each optimiser step; abstract.

    F is the sum of `earlier` (that of former tasks, times `decay`) and of what the final class measures, each measured
    one of mean 1, so that strengths compare between estimators, models and sizes; c is the factor of the layer (see
    `coefficients`). The anchor is the model that this run starts from, which earlier tasks made: online EWC (Schwarz et
    al., 2018, arXiv:1805.06370), and with `decay` 1 the sum over tasks (Huszár, 2018, arXiv:1712.03847). On LoRA
    importance belongs to the product s·BA. At the end, F is written to `folder` for the next task, and its mean in each
    part of the model to the journal (a line of kind "importance").
    """

    kind = Kind.PULL

    def __init__(self, strength: float, earlier: Earlier, decay: float, layers: Layers, folder: str | Path | None):
        self.name = type(self).__name__.lower()
        if strength < 0:
            raise BadInput(f"{self.name}: strength must not be negative, got {strength}.")
        if not 0 <= decay <= 1:
            raise BadInput(f"{self.name}: decay is what an earlier task still counts for, from 0 to 1, not {decay}.")
        self.strength: float = strength
        self.earlier, self.decay, self.layers, self.folder = earlier, decay, layers, folder
        self.importance: Importance = {}
        self.base: Base | None = None
        self._factors: dict[str, float] = {}

    @abstractmethod
    def measured(self, run: Run) -> Importance | None:
        """The importance, of mean 1, that this run adds before its first step; None: nothing yet."""

    def final(self, run: Run) -> Importance:
        """The sum that the next task gets."""
        return self.importance

    def begin(self, run: Run) -> None:
        refuse(run, self.name)
        if any(isinstance(t, DTensor) for t in run.tensors.values()):
            raise Unsupported(
                f"{self.name} measures importance on whole tensors, which FSDP2 splits; use plain data parallel."
            )
        earlier = {} if self.earlier is None else read(self.earlier, run)
        self.importance = {n: run.agreed(t) for n, t in self.summed(earlier, self.measured(run)).items()}
        self._settle(run)

    def summed(self, earlier: Importance, own: Importance | None) -> Importance:
        """Earlier importance fades only where a task's own is added."""
        if own is None or not earlier:
            return own or earlier
        return {path: earlier[path].mul(self.decay).add_(t) for path, t in own.items()}

    def prepared(self) -> State:
        return {"importance": self.importance}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        if prepared is not None:
            self.importance = on_device(prepared["importance"], run)
        self._settle(run)

    def update(self, run: Run, move: Move) -> None:
        assert self.base is not None
        importance = self.importance.get(weighed(move.param))
        if importance is None:
            return
        if move.param.lora is not None and move.param.lora.transposed:
            importance = importance.T
        weight = move.learning_rate * self.strength * self._factors[move.param.path]
        pull(move, self.base.values, weight, importance)

    def end(self, run: Run) -> None:
        total = {} if self.base is None or run.process[0] else self.final(run)
        if total and self.folder is not None:
            write(total, self.folder)
        if total and not run.interrupted:
            run.log("importance", rule=run.name(self), groups=by_place(total, run))
        self.base, self.importance = None, {}

    def _settle(self, run: Run) -> None:
        self.base, self._factors = run.base, coefficients(self.layers, run.params)


def by_place(importance: Importance, run: Run) -> dict[str, float]:
    """The mean importance over the elements of each part of the model."""
    places = {weighed(param): param.place for param in run.params.values()}
    sums: dict[str, list[float]] = {}
    for path, values in importance.items():
        pair = sums.setdefault(places[path], [0.0, 0.0])
        pair[0] += float(values.sum())
        pair[1] += values.numel()
    return {place: total / count for place, (total, count) in sums.items()}


def on_device(values: Mapping[str, Tensor], run: Run) -> Importance:
    """A copy of a mapping of tensors where the run's own are."""
    device = next(iter(run.tensors.values())).device
    return {path: t.to(device, copy=True) for path, t in values.items()}
