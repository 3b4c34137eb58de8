"""The guide's figures of a training: its metrics in a picture, its gradients, its memory."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.backends.registry import BackendFilter, backend_registry
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState

from holdfast._errors import BadInput
from holdfast.evaluation.report.drawing import colour, dashes, picture_file, style, write
from holdfast.params.inventory import inventory
from holdfast.recipe.memory import held

logger = logging.getLogger(__name__)

PICTURE = "metrics.png"
"""Where a picture goes that no screen can show."""


class PerformanceMonitor:
    """Keeps metrics by name, each a list of numbers in `metrics`, with the step of each in `steps`.

    `callback` listens to any Trainer, `sink` to the journal of a run with rules, forgetting included:
    `holdfast.Trainer(..., rules=[Monitor(...)], sinks=[monitor.sink])`.
    """

    def __init__(self) -> None:
        self.metrics: defaultdict[str, list[float]] = defaultdict(list)
        self.steps: defaultdict[str, list[int]] = defaultdict(list)

    def log_metric(self, name: str, value: float | Tensor, step: int | None = None) -> None:
        """Note one value, at a step or behind the last one; raises BadInput for anything but one number."""
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadInput(f"The metric {name!r} takes one number at a time, not {value!r}.") from error
        last = self.steps[name][-1] if self.steps[name] else -1
        self.metrics[name].append(number)
        self.steps[name].append(last + 1 if step is None else step)

    def plot_metrics(self, path: str | Path | None = None) -> Path | None:
        """Draw all metrics over their steps: to `path` (.png or .svg), or on the screen.

        Without a path and without a screen the picture is `metrics.png` in the present folder. The file is returned,
        None where the screen shows it. What is not finite leaves a gap. Raises BadInput where there is no metric.
        """
        if not self.metrics:
            raise BadInput("No metric has been logged yet: call log_metric first.")
        with style():
            if path is None and _on_screen():
                self._draw(plt.figure(figsize=(12, 6), layout="constrained"))
                plt.show()
                return None
            figure = Figure(figsize=(12, 6), layout="constrained")
            self._draw(figure)
            written = write(figure, picture_file(path or PICTURE))
        logger.info("The metrics are drawn in %s.", written)
        return written

    def callback(self) -> TrainerCallback:
        """A callback for any Trainer that notes every number of its log, at its step."""
        return _Listener(self)

    def sink(self, line: Mapping[str, Any]) -> None:
        """Take a line of a run's journal: what training says, what was gained, and what was forgotten of each text."""
        step, text = int(line["step"]), line.get("text")
        if line["kind"] == "train":
            self._note(line, step)
        elif line["kind"] == "probe":
            self.log_metric(f"forgetting/{text}", line["rise"], step)
        elif line["kind"] == "learn":
            self.log_metric(f"gain/{text}", line["gain"], step)

    def _note(self, logs: Mapping[str, Any], step: int) -> None:
        for name, value in logs.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "epoch"):
                self.log_metric(name, value, step)

    def _draw(self, figure: Figure) -> None:
        axes = figure.subplots()
        for i, (name, values) in enumerate(self.metrics.items()):
            shown = [value if math.isfinite(value) else math.nan for value in values]
            mark = "o" if len(values) == 1 else ""
            axes.plot(self.steps[name], shown, label=name, color=colour(i), linestyle=dashes(i), marker=mark)
        axes.set_xlabel("step")
        axes.legend()


class _Listener(TrainerCallback):
    """Hands the Trainer's log on."""

    def __init__(self, monitor: PerformanceMonitor):
        self.monitor = monitor

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.monitor._note(logs or {}, state.global_step)


class ModelAnalyzer:
    """Says what a model's gradients and its memory are at the moment."""

    def __init__(self, model: nn.Module):
        self.model = model

    def analyze_gradients(self) -> list[dict[str, Any]]:
        """`name` and `norm` (Euclidean) of each gradient that is there; warns of those that are not finite."""
        found = [
            {"name": n, "norm": p.grad.norm().item()} for n, p in self._with_gradients().items() if p.grad is not None
        ]
        if odd := self.not_finite():
            logger.warning("%d gradients are not finite, the first of them that of %s.", len(odd), odd[0])
        return found

    def not_finite(self) -> list[str]:
        """The names of the parameters whose gradient holds an infinity or no number."""
        named = self._with_gradients().items()
        return [name for name, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]

    def gradients_by_layer(self) -> dict[str, float]:
        """The norm of the gradients of each part of the model (`layers.3 mlp`), in the model's order."""
        squares: defaultdict[str, float] = defaultdict(float)
        named = self._with_gradients()
        for param in inventory(self.model):
            if param.path in named and (gradient := named[param.path].grad) is not None:
                squares[param.place] += float(gradient.double().square().sum())
        return {place: math.sqrt(square) for place, square in squares.items()}

    def memory_usage(self, optimizer: Optimizer | None = None) -> dict[str, int]:
        """Bytes: what is `allocated` and `cached`, and what `parameters`, `gradients` and `optimizer` take of it.

        On a GPU these are torch's figures of the model's device, `cached` being what torch keeps there for itself. On
        a processor torch keeps nothing back, and both are what the process holds in memory (0 where no system says).
        """
        parameters = list(self.model.parameters())
        device = parameters[0].device if parameters else torch.device("cpu")
        allocated = held(device) or 0
        return {
            "allocated": allocated,
            "cached": torch.cuda.memory_reserved(device) if device.type == "cuda" else allocated,
            "parameters": sum(p.nbytes for p in parameters),
            "gradients": sum(p.grad.nbytes for p in parameters if p.grad is not None),
            "optimizer": _state(optimizer),
        }

    def _with_gradients(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.grad is not None}


def _state(optimizer: Optimizer | None) -> int:
    """Bytes of what an optimiser remembers."""
    states = [] if optimizer is None else optimizer.state.values()
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))


def _on_screen() -> bool:
    """Whether matplotlib has a window, or a notebook, to show a picture in."""
    still: list[str] = backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE)  # type: ignore[no-untyped-call]
    return plt.get_backend().lower() not in still
