"""A lock for many readers or one writer: what is read was never half written, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Readers together, a writer alone; a waiting writer goes before new readers, so that reading never starves it.

    Not re-entrant: whoever holds it must not ask again.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._readers, self._waiting, self._writing = 0, 0, False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Beside other readers, while nobody writes."""
        with self._free:
            self._free.wait_for(lambda: not self._writing and not self._waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._free:
                self._readers -= 1
                self._free.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Alone."""
        with self._free:
            self._waiting += 1
            try:
                self._free.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._waiting -= 1
                self._free.notify_all()
        try:
            yield
        finally:
            with self._free:
                self._writing = False
                self._free.notify_all()
