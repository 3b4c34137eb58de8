"""What a teacher said about rows, kept so that it need not be asked again: top-k logits, in memory or in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast._errors import BadInput
from holdfast.data.quiet import quiet
from holdfast.data.rows import Row
from holdfast.remedies.divergence import Likeliest, likeliest

MIB = 2**20

Ask = Callable[[Tensor], Tensor]
"""Ids of one row [1, tokens] -> logits [1, tokens, vocabulary]."""


class Answers:
    """The `top` likeliest logits of a teacher for each token of each row that it was asked about.

    They take 8 k + 4 bytes a token, together at most `limit` MiB: in memory, or in files in `folder`, which are taken
    away at `close`. Rows that come when it is full are asked about each time. A row is asked about by itself, so that
    what is said does not depend on what else is in its batch.
    """

    def __init__(self, top: int, temperature: float = 1.0, limit: float = 256.0, folder: str | Path | None = None):
        if top < 1 or not temperature > 0 or limit < 0:
            raise BadInput(
                f"Answers need top >= 1, temperature > 0 and limit >= 0, not {top}, {temperature} and {limit}."
            )
        self.top, self.temperature, self.limit = top, temperature, limit
        self.folder = None if folder is None else Path(folder)
        self._places: dict[bytes, tuple[int, int]] = {}
        self._used = 0
        self._store: dict[str, np.ndarray[Any, Any]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def about(self, rows: Sequence[Tensor], ask: Ask) -> Likeliest:
        """What was said about all tokens of rows of ids [tokens], one after the other; `ask` where nothing is known."""
        found = [self._known(ids) or self._asked(ids, ask) for ids in rows]
        device = rows[0].device
        parts = ([getattr(one, field) for one in found] for field in ("values", "indices", "rest"))
        return Likeliest(*(torch.cat([part.to(device) for part in field]) for field in parts))

    def state(self) -> Mapping[str, Any]:
        """All that was said, fit for `checkpoint.write_state`: DER hands it on from task to task."""
        kept = {name: torch.from_numpy(np.array(array[: self._used])) for name, array in self._store.items()}
        places = {key.hex(): list(place) for key, place in self._places.items()}
        return {"top": self.top, "temperature": self.temperature, "places": places, **kept}

    @classmethod
    def restored(cls, state: Mapping[str, Any], limit: float = 256.0, folder: str | Path | None = None) -> Answers:
        """Answers as `state` gave them, with room for more; what goes beyond `limit` is left out."""
        answers = cls(state["top"], state["temperature"], limit, folder)
        for key, (begin, end) in state["places"].items():
            parts = (state[name][begin:end] for name in ("values", "indices", "rest"))
            answers._keep(bytes.fromhex(key), Likeliest(*parts))
        return answers

    def close(self) -> None:
        """Forget everything, and take the files away."""
        self._places, self._used, self._store = {}, 0, {}
        if self.folder is not None:
            for file in self.folder.glob("answers-*.bin"):
                file.unlink()
            with suppress(OSError):  # others may keep files there
                self.folder.rmdir()

    def _known(self, ids: Tensor) -> Likeliest | None:
        place = self._places.get(_key(ids))
        if place is None:
            return None
        found = (np.array(self._store[name][slice(*place)]) for name in ("values", "indices", "rest"))
        return Likeliest(*map(torch.from_numpy, found))

    @torch.no_grad()
    def _asked(self, ids: Tensor, ask: Ask) -> Likeliest:
        said = likeliest(ask(ids[None])[0], self.top, self.temperature)
        self._keep(_key(ids), said)
        return said

    def _keep(self, key: bytes, said: Likeliest) -> None:
        tokens, k = said.values.shape
        if not self._store:
            self._open(k)
        end = self._used + tokens
        if end > len(self._store["rest"]):
            return
        for name, array in self._store.items():
            array[self._used : end] = getattr(said, name).cpu().numpy()
        self._places[key], self._used = (self._used, end), end

    def _open(self, k: int) -> None:
        """Room for as many tokens as the limit allows; memory and disk are taken up only as it fills."""
        tokens = int(self.limit * MIB) // (8 * k + 4)
        shapes = {"values": (tokens, k), "indices": (tokens, k), "rest": (tokens,)}
        for name, shape in shapes.items():
            kind = np.int32 if name == "indices" else np.float32
            if self.folder is None or not tokens:
                self._store[name] = np.empty(shape, kind)
            else:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._store[name] = np.memmap(self.folder / f"answers-{name}.bin", kind, "w+", shape=shape)


def answered(
    model: nn.Module, rows: Sequence[Row], top: int, *, temperature: float = 1.0, limit: float = 256.0
) -> Answers:
    """What a model says about rows now, to hold it to later: after a task, before the next one moves it (DER)."""
    answers = Answers(top, temperature, limit)
    with quiet(model) as device:
        for row in rows:
            ids = torch.tensor(row["input_ids"], device=device)
            answers.about([ids], lambda asked: model(input_ids=asked).logits)
    return answers


def _key(ids: Tensor) -> bytes:
    return ids.detach().cpu().numpy().astype(np.int32).tobytes()
