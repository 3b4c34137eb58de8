"""Readers together, a writer alone, and nobody waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdfast.llm.lock import SharedLock


def test_readers_are_in_at_the_same_time() -> None:
    lock, met = SharedLock(), threading.Barrier(3, timeout=10)

    def read() -> None:
        with lock.reading():
            met.wait()

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(read) for _ in range(3)]:
            done.result(timeout=20)


def test_a_writer_is_alone() -> None:
    lock, counter = SharedLock(), [0, 0]

    def write() -> None:
        for _ in range(200):
            with lock.writing():
                counter[0] += 1
                counter[1] = counter[0]

    def read() -> list[bool]:
        seen = []
        for _ in range(200):
            with lock.reading():
                seen.append(counter[0] == counter[1])
        return seen

    with ThreadPoolExecutor(8) as pool:
        writing, reading = [pool.submit(write) for _ in range(3)], [pool.submit(read) for _ in range(5)]
        for done in writing:
            done.result(timeout=30)
        assert all(all(done.result(timeout=30)) for done in reading)
    assert counter == [600, 600]


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock, order = SharedLock(), []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with lock.reading():
            inside.set()
            leave.wait(10)

    def writer() -> None:
        with lock.writing():
            order.append("writer")

    def late() -> None:
        with lock.reading():
            order.append("reader")

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        assert inside.wait(10)
        waiting = pool.submit(writer)
        while not lock._waiting:
            threading.Event().wait(0.001)
        reader = pool.submit(late)
        leave.set()
        waiting.result(timeout=10)
        reader.result(timeout=10)
    assert order == ["writer", "reader"]


def test_an_error_inside_gives_the_lock_back() -> None:
    lock = SharedLock()
    for hold in (lock.writing, lock.reading, lock.writing):
        with pytest.raises(ZeroDivisionError), hold():
            raise ZeroDivisionError
