"""A talk in the terminal: answers as they are written, the base's beside them, and commands with a slash."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from holdfast._errors import BadInput, HoldfastError
from holdfast.checkpoint import file_kept_whole
from holdfast.generation.settings import Writing
from holdfast.generation.talk import Talk


class Chat:
    """A talk with one model, or with two side by side; `run` reads lines until /quit or the end of the input.

    Each side remembers its own answers. Ctrl-C breaks an answer off, and at the prompt ends the talk.
    """

    def __init__(self, sides: Sequence[Talk], settings: Writing, console: Console):
        self.sides, self.settings, self.console = sides, settings, console
        self.going = True
        self.commands: dict[str, tuple[Callable[[str], None], str]] = {
            "/reset": (self.reset, "forget what was said"),
            "/seed": (self.seed, "N: draw with other luck"),
            "/temperature": (self.temperature, "X: 0 takes the likeliest token, above it draws"),
            "/system": (self.system, "TEXT: what the model is told before all else (nothing: no longer)"),
            "/save": (self.save, "FILE: write the talk as JSON lines"),
            "/help": (self.help, "this list"),
            "/quit": (self.quit, "end (Ctrl-D too)"),
        }

    def run(self) -> None:
        """Read and answer until the end; what a line asks wrongly is said, and the talk goes on."""
        self._say(" · ".join(side.name for side in self.sides) + ". /help lists what can be asked; /quit ends.")
        if self.sides[0].plain:
            self._say("This model has no chat template: it goes on from the plain text of all that was said.")
        while self.going:
            try:
                line = self.console.input("[bold]> [/bold]" if self.console.is_terminal else "")
            except (EOFError, KeyboardInterrupt):
                self.console.print()
                return
            try:
                self._line(line)
            except KeyboardInterrupt:
                self._say("broken off")
            except HoldfastError as error:
                self._say(str(error))

    def reset(self, _: str) -> None:
        """Forget what was said."""
        for side in self.sides:
            side.reset()
        self._say("A new talk.")

    def seed(self, text: str) -> None:
        """Draw with another seed."""
        self.settings = replace(self.settings, seed=int(_number(text, "/seed 1", whole=True)))

    def temperature(self, text: str) -> None:
        """Draw at another temperature; at 0 nothing is drawn, so top_p and top_k have no say."""
        degree = _number(text, "/temperature 0.7")
        narrowed = {} if degree else {"top_p": 1.0, "top_k": 0}
        self.settings = replace(self.settings, temperature=degree, **narrowed)  # type: ignore[arg-type]

    def system(self, text: str) -> None:
        """Tell the model something before all else."""
        for side in self.sides:
            side.system = text or None

    def save(self, text: str) -> None:
        """Write the talk: a line of `messages` for each side, which data for training may be made of."""
        if not text:
            raise BadInput("Name the file: /save talk.jsonl")
        file = Path(text).expanduser()
        lines = [json.dumps({"model": s.name, "messages": s.whole()}, ensure_ascii=False) for s in self.sides]
        try:
            with file_kept_whole(file) as half:
                half.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{file} cannot be written: {error.strerror or error}.") from error
        self._say(f"Saved: {file}")

    def help(self, _: str) -> None:
        """Name the commands."""
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, (_action, about) in self.commands.items():
            table.add_row(Text(name, style="bold"), Text(about))
        self.console.print(table)

    def quit(self, _: str) -> None:
        """End the talk."""
        self.going = False

    def _line(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/"):
            self._answer(line)
            return
        name, _, rest = line.strip().partition(" ")
        if name not in self.commands:
            near = difflib.get_close_matches(name, self.commands, n=1)
            raise BadInput(
                f"There is no {name}. {f'Did you mean {near[0]}?' if near else '/help lists what there is.'}"
            )
        self.commands[name][0](rest.strip())

    def _answer(self, text: str) -> None:
        if len(self.sides) == 1:
            self._streamed(self.sides[0], text)
        else:
            self._beside(text)
        if forgotten := max(side.forgotten for side in self.sides):
            self._say(f"The first {forgotten} messages no longer fit into the model, and were left out.")

    def _streamed(self, side: Talk, text: str) -> None:
        with closing(side.answer(text, self.settings)) as pieces:
            for piece in pieces:
                self.console.print(Text(piece), end="", soft_wrap=True)
        self.console.print()

    def _beside(self, text: str) -> None:
        """Both answers in panels that grow as they are written; outside a terminal they are printed when done."""
        answers, before = ["" for _ in self.sides], [len(side.messages) for side in self.sides]
        try:
            with Live(console=self.console, auto_refresh=False, vertical_overflow="visible") as live:
                for i, side in enumerate(self.sides):
                    with closing(side.answer(text, self.settings)) as pieces:
                        for piece in pieces:
                            answers[i] += piece
                            live.update(self._panels(answers), refresh=self.console.is_terminal)
                live.update(self._panels(answers), refresh=self.console.is_terminal)
        except BaseException:  # both sides heard the same, or neither did
            for side, length in zip(self.sides, before, strict=True):
                del side.messages[length:]
            raise
        if not self.console.is_terminal:
            self.console.print()

    def _panels(self, answers: Sequence[str]) -> Table:
        table = Table.grid(expand=True)
        for _ in self.sides:
            table.add_column(ratio=1)
        sides = zip(self.sides, answers, strict=True)
        table.add_row(
            *(Panel(Text(answer.strip()), title=Text(side.name), title_align="left") for side, answer in sides)
        )
        return table

    def _say(self, line: str) -> None:
        self.console.print(Text(line, style="dim"))


def _number(text: str, example: str, whole: bool = False) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise BadInput(f"{text!r} is not {kind}; write, for instance, {example}") from None
