"""What follows from an alarm: a line in the log, a message to a web address, a stop, weights that are kept."""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from torch import Tensor

from holdfast._errors import BadInput, TrainingStopped
from holdfast.checkpoint import kept_whole, write_state
from holdfast.evaluation.plain import finite

logger = logging.getLogger(__name__)

WAYS = ("log", "stop", "raise")
SECONDS = 10
"""How long a web address may take to answer."""


@dataclass(frozen=True)
class Reaction:
    """`on_alarm`: `log` goes on, `stop` ends the run after this step, `raise` raises TrainingStopped at once.

    Raises BadInput for another word, and for a webhook that is no http or https address.
    """

    on_alarm: str = "log"
    webhook: str | None = None

    def __post_init__(self) -> None:
        if self.on_alarm not in WAYS:
            raise BadInput(f"`on_alarm` is one of {', '.join(WAYS)}, not {self.on_alarm!r}.")
        if self.webhook is not None and not self.webhook.startswith(("http://", "https://")):
            raise BadInput(f"A webhook is an http or https address, not {self.webhook!r}.")

    def to(self, alarm: Mapping[str, Any], *, first: bool = True) -> bool:
        """React to an alarm (the `first` process sends); whether the run has to stop."""
        logger.warning("%s", alarm["says"])
        if self.webhook is not None and first:
            post(self.webhook, alarm)
        if self.on_alarm == "raise":
            raise TrainingStopped(str(alarm["says"]))
        return self.on_alarm == "stop"


def post(address: str, message: Mapping[str, Any]) -> Thread:
    """Send a message as JSON by HTTP POST, in the background: a run neither waits for it nor fails with it."""
    body = json.dumps(finite(message), ensure_ascii=False).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
    sending = Thread(target=_send, args=(request,), daemon=True)
    sending.start()
    return sending


def keep(folder: Path, step: int, weights: Mapping[str, Tensor]) -> Path:
    """Write weights to `folder/step-N`, whole or not at all; with the base they are the whole model."""
    place = folder / f"step-{step}"
    with kept_whole(folder / f".step-{step}", place):
        write_state(folder / f".step-{step}", "moved", {name: w.detach().cpu() for name, w in weights.items()})
    return place


def _send(request: urllib.request.Request) -> None:
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except (OSError, ValueError) as error:
        logger.warning("The alarm could not be sent to %s (%s).", request.host, error)
