"""One thread per test process: the models are so small that threads only wait for each other.

What was imported and collected is no garbage, and nobody looks through it again. accelerate asks for a whole collection
for each `Trainer` that is made; so many trainers are made here that these would take a tenth of the time.
"""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import accelerate.utils.memory
import pytest
import torch

torch.set_num_threads(1)
accelerate.utils.memory.clear_device_cache = lambda garbage_collection=False: None
gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.collect()
    gc.freeze()
    gc.enable()
