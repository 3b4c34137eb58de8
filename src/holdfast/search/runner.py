"""Runs of candidates: each trained as long as its rung says, measured, and noted, also where it failed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from holdfast._errors import HoldfastError, TrainingStopped
from holdfast.evaluation.loss import SequenceLosses
from holdfast.search.candidates import carried, shortened
from holdfast.search.ground import Ground, Losses
from holdfast.search.space import Space
from holdfast.search.storage import Candidate, Rung
from holdfast.search.trial import Outcome, OutOfTime, Progress, carried_out

logger = logging.getLogger(__name__)

DEFAULT = 0
"""The number of the recipe as it was given."""


@dataclass(frozen=True)
class Runner:
    """Trains candidates of a space on shared ground; `rungs` are numbers of steps, the last one the recipe's own.

    `deadline` is a time of `time.monotonic`.
    """

    values: Mapping[str, Any]
    space: Space
    ground: Ground
    rungs: list[int]
    folder: Path
    deadline: float
    say: Progress

    def run(self, candidate: Candidate) -> None:
        """Train a candidate on its next rung, and note what came of it or why it failed.

        A recipe that cannot be carried out itself raises, for then there is nothing to compare with. Raises OutOfTime
        and KeyboardInterrupt, and nothing is noted.
        """
        rung = len(candidate.rungs)
        line = {"number": candidate.number, "params": candidate.params, "steps": self.rungs[rung]}
        self.say({"kind": "trial", **line})
        try:
            with _told_once(candidate.number):
                made = self._made(candidate, rung)
        except (OutOfTime, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever a candidate meets, the search goes on
            if candidate.number == DEFAULT:
                raise
            candidate.failed = str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
            logger.info("Trial %d failed: %s", candidate.number, candidate.failed)
            self.say({"kind": "failed", **line, "reason": candidate.failed})
            return
        candidate.rungs.append(made)
        self.say({"kind": "done", **line, "gain": made.choosing.gain.mean, "forgetting": made.choosing.forgetting})

    def losses(self, number: int) -> tuple[Losses, Losses]:
        """The losses of a candidate's whole run on the rows that choose and on those that judge."""
        read = load_file(self._file(number))
        made = [
            {
                name: SequenceLosses(read[f"{part}/{name}"], text.before.tokens, text.before.documents)
                for name, text in texts.items()
            }
            for part, texts in (("choosing", self.ground.choosing), ("judging", self.ground.judging))
        ]
        return made[0], made[1]

    def _made(self, candidate: Candidate, rung: int) -> Rung:
        whole, ground = rung == len(self.rungs) - 1, self.ground
        values = carried(self.values, self.space, candidate.params if candidate.number != DEFAULT else {})
        outcome = carried_out(
            ground,
            shortened(values, self.rungs[rung], self.rungs[-1]),
            self.folder / ".trial",
            judged=whole,
            deadline=self.deadline,
            say=self.say,
        )
        choosing = ground.figures(outcome.choosing, ground.choosing)
        if not choosing.finite:
            raise TrainingStopped("Its loss is not finite after training: the learning rate may be too high.")
        if outcome.judging is None:
            return Rung(outcome.steps, outcome.seconds, outcome.bytes, choosing)
        self._keep(candidate.number, outcome)
        judging = ground.figures(outcome.judging, ground.judging)
        return Rung(outcome.steps, outcome.seconds, outcome.bytes, choosing, judging)

    def _keep(self, number: int, outcome: Outcome) -> None:
        """Losses row by row, so that two recipes can be compared in pairs."""
        parts = {"choosing": outcome.choosing, "judging": outcome.judging or {}}
        totals = {
            f"{part}/{name}": one.total.contiguous() for part, all_ in parts.items() for name, one in all_.items()
        }
        file = self._file(number)
        file.parent.mkdir(exist_ok=True)
        half = file.with_name(f".{file.name}.part")
        save_file(totals, half)
        half.replace(file)

    def _file(self, number: int) -> Path:
        return self.folder / "losses" / f"{number}.safetensors"


@contextmanager
def _told_once(number: int) -> Iterator[None]:
    """Libraries say what they think of a model in the first trial, and not in each of the others again."""
    with warnings.catch_warnings():
        if number != DEFAULT:
            warnings.simplefilter("ignore")
        yield
