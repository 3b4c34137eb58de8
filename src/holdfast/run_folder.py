"""What a run keeps in its folder so that it can go on: its checkpoints, and what its rules prepared for all of them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast import checkpoint
from holdfast._errors import BadCheckpoint
from holdfast.rule import State

logger = logging.getLogger(__name__)

PREPARED = "prepared"
NEEDED = ("rules", "optimizer", "scheduler.pt", "rng_state", "trainer_state.json")
"""Files that a checkpoint has to hold; without one of them a resumed run would silently be another run."""

Shapes = Mapping[str, list[int]]


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint, with what its run prepared and where its rules stood."""

    folder: Path
    prepared: State
    state: State


class RunFolder:
    """Writes and chooses the checkpoints of one run.

    `part` is the number of this process and of all where each keeps a part of the weights, else None: then the first
    process writes for all. `first` says whether this process moves and deletes; `meet` is a barrier for all.
    """

    def __init__(
        self, *, part: tuple[int, int] | None = None, first: bool = True, meet: Callable[[], None] = lambda: None
    ):
        self._name = "rules" if part is None else f"rules-{part[0]}-of-{part[1]}"
        self._writes = first or part is not None
        self._first, self._meet = first, meet
        self._identity, self._prepared_in = secrets.token_hex(8), Path()

    def choose(self, place: Path, wanted: str | bool | None, shapes: Shapes) -> Saved | None:
        """The checkpoint to resume from: the one that is named, or for True the newest complete one in `place`.

        Raises BadCheckpoint when there is none, when a named one is incomplete, damaged or of another run, and when
        the saved run trained other parameters than `shapes` says.
        """
        if not wanted:
            return None
        saved = self._open(Path(wanted)) if wanted is not True else self._newest(place)
        _compare(saved, shapes)
        return saved

    def resume(self, saved: Saved) -> None:
        """What is saved from now on belongs to the run of this checkpoint."""
        self._identity, self._prepared_in = saved.state["identity"], saved.folder.parent / PREPARED

    def prepare(self, place: Path, shapes: Shapes, prepared: Callable[[], State]) -> None:
        """Save what was prepared, once in a run, and again where a resumed run writes to another folder."""
        if self._prepared_in != place / PREPARED:
            with self.published(place / ".saving", place / PREPARED) as staged:
                self.write(staged, {"parameters": shapes, **prepared()})
            self._prepared_in = place / PREPARED

    def write(self, folder: Path, state: State) -> None:
        """Write a state of the rules, or this process's part of it."""
        if self._writes:
            checkpoint.write_state(folder, self._name, {"identity": self._identity, **state})

    @contextmanager
    def published(self, staging: Path, folder: Path) -> Iterator[Path]:
        """Every process writes to `staging`; the first one moves it into place when all have written."""
        with checkpoint.kept_whole(staging, folder, first=self._first, meet=self._meet):
            yield staging

    def _newest(self, place: Path) -> Saved:
        for folder in reversed(checkpoint.checkpoints(place)):
            try:
                return self._open(folder)
            except BadCheckpoint as error:
                logger.warning("%s It is passed over.", error)
        raise BadCheckpoint(f"There is no complete checkpoint in {place} to resume from.")

    def _open(self, folder: Path) -> Saved:
        prepared = folder.parent / PREPARED
        checkpoint.check(folder, NEEDED)
        checkpoint.check(prepared)
        if not (folder / f"{self._name}.json").is_file():
            raise BadCheckpoint(f"{folder} was saved by another number of processes; resume with as many as then.")
        saved = Saved(folder, checkpoint.read_state(prepared, self._name), checkpoint.read_state(folder, self._name))
        if saved.state["identity"] != saved.prepared["identity"]:
            raise BadCheckpoint(f"{folder} belongs to another run than {prepared}, which was started there later.")
        return saved


def _compare(saved: Saved, ours: Shapes) -> None:
    """Raise BadCheckpoint unless the model trains the same parameters, in the same shapes, as the saved run."""
    theirs: Shapes = saved.prepared["parameters"]
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            there, here = (shapes.get(name) or "not trained" for shapes in (theirs, ours))
            raise BadCheckpoint(
                f"{saved.folder} belongs to another model: {name} is {there} there and {here} here. "
                "Build the model (and its adapter) as for the first run, or start a new run in a folder of its own."
            )
