"""An answer while it is written: the model writes in a thread, the caller reads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import Any, Self

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from holdfast._errors import BadInput
from holdfast.base import Base
from holdfast.data.quiet import quiet
from holdfast.generation.prompts import Prompt, check_writes, prompt_tokens
from holdfast.generation.settings import Writing
from holdfast.generation.text import before_stop, decoded, settled
from holdfast.generation.writing import written


def stream(base: Base, prompt: Prompt, settings: Writing | None = None) -> Generator[str]:
    """The answer in pieces as they are written; together they are what `generate` gives for the first prompt.

    Errors of the writing thread are raised here, and it ends when the iterator is closed or interrupted (Ctrl-C). One
    model writes one answer at a time. Raises BadInput for beams, which have no text before their end, and as
    `generate`.
    """
    settings = settings or Writing()
    check_writes(base)
    if settings.beams > 1:
        raise BadInput("Beams are compared when all is written, so they cannot be streamed. Use generate, or 1 beam.")
    return _pieces(base, prompt_tokens(base, prompt, settings), settings)


class _Shared:
    """Stays itself where PEFT copies the arguments of `generate`: both threads hold it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class _Pipe(_Shared, BaseStreamer):
    """Hands tokens on; text is made of them together, for TextIteratorStreamer loses blanks after line breaks."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[list[int] | BaseException | None] = queue.SimpleQueue()
        self.begun = False

    def put(self, value: Tensor) -> None:
        """The prompt at first, then each token."""
        if self.begun:
            self.queue.put(value.flatten().tolist())
        self.begun = True

    def end(self) -> None:
        """The end is told by the thread, errors included."""


class _Left(_Shared, StoppingCriteria):
    """Ends the writing when nobody reads on."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def _pieces(base: Base, prompt: list[int], settings: Writing) -> Generator[str]:
    pipe, left = _Pipe(), _Left()
    thread = threading.Thread(target=_write, args=(base, prompt, settings, pipe, left), daemon=True)
    thread.start()
    shown, new = "", list[int]()
    try:
        while (told := pipe.queue.get()) is not None:
            if isinstance(told, BaseException):
                raise told
            new += told
            text = settled(before_stop(decoded(base, prompt, new), settings.stop), settings.stop)
            if len(text) > len(shown) and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
        if rest := before_stop(decoded(base, prompt, new), settings.stop)[len(shown) :]:
            yield rest
    finally:
        left.event.set()
        thread.join()


def _write(base: Base, prompt: list[int], settings: Writing, pipe: _Pipe, left: _Left) -> None:
    try:
        with quiet(base.model):
            written(base, [prompt], settings, [0], streamer=pipe, halt=[left])
    except BaseException as error:
        pipe.queue.put(error)
    finally:
        pipe.queue.put(None)
