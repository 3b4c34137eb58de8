"""The live display of runs: what goes on, how far it is, and the figures so far; outside a terminal, plain lines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from holdfast.evaluation.report.headline import change, nats


def hush() -> None:
    """Keep transformers' own bars and remarks out of ours; its errors are raised all the same."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # said to PEFT, not to users


@contextmanager
def counted(console: Console, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar while something is counted; yields what takes the number done so far. Nothing outside a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=total)
        yield lambda done: bars.update(task, completed=done)


class Display:
    """A bar for each run, and one over all of them where there are several; use it as a context manager.

    `run(name)` gives what `holdfast.recipe.run` takes as `progress`.
    """

    def __init__(self, console: Console, runs: int = 1):
        self.console, self.runs = console, runs
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.whole = self.bars.add_task("all runs", total=runs, figures="", visible=runs > 1)

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def run(self, name: str) -> Watcher:
        """A new bar, and what tells it how the run goes on."""
        return Watcher(self, name, self.bars.add_task(name, total=None, figures=""))


class Watcher:
    """Follows one run."""

    def __init__(self, display: Display, name: str, task: TaskID):
        self.display, self.name, self.task = display, name, task
        self.figures: dict[str, str] = {}

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Take a line of the run in."""
        if line["kind"] == "stage":
            self._show(str(line["text"]))
        elif line["kind"] == "step":
            self._step(int(line["step"]), int(line["of"]))
        elif (told := _told(line)) is not None:
            self.figures[told[0]] = told[1]

    def done(self) -> None:
        """The run has come to its end."""
        self._show("done")
        self.display.bars.advance(self.display.whole)

    def _step(self, step: int, of: int) -> None:
        bars = self.display.bars
        bars.update(self.task, description=self.name, completed=step, total=of, figures=self._line())
        if bars.disable and (step % max(1, of // 10) == 0 or step == of):
            self.display.console.print(f"{self.name}: step {step} of {of}  {self._line()}", soft_wrap=True)

    def _show(self, stage: str) -> None:
        self.display.bars.update(self.task, description=f"{self.name}: {stage}", figures=self._line())
        if self.display.bars.disable:
            self.display.console.print(f"{self.name}: {stage}", soft_wrap=True)

    def _line(self) -> str:
        return "  ".join(f"{what} {figure}" for what, figure in self.figures.items())


def _told(line: Mapping[str, Any]) -> tuple[str, str] | None:
    """A figure of the journal, by what it is about."""
    match line:
        case {"kind": "train", "loss": float(loss)}:
            return "loss", f"{loss:.3f}"
        case {"kind": "learn", "gain": float(gain)}:
            return "gain", nats(gain)
        case {"kind": "probe", "rise": float(rise), "text": text}:
            return str(text), change(rise)
    return None
