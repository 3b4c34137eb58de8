"""What a run can be brought back to: a generator for each rule, the library's random state, copies of other states."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.rule import Rule


def keys(rules: Sequence[Rule]) -> dict[int, str]:
    """A stable name for each rule by its id, wrapped ones included; rules that are off do not count."""
    found: dict[int, str] = {}
    seen: dict[str, int] = {}
    for rule in sorted(rules, key=lambda r: r.strength == 0):
        chain = [rule]
        while isinstance(inner := getattr(chain[-1], "rule", None), Rule):
            chain.append(inner)
        name = type(chain[-1]).__name__.lower()
        seen[name] = seen.get(name, 0) + 1
        found |= {id(r): f"{name}-{seen[name]}" for r in chain}
    return found


def seeded(seed: int, key: str) -> torch.Generator:
    """A generator that depends on the run's seed and the rule's own name alone."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and a forked random state; both are as before when it ends."""
    modes = {m: m.training for m in model.modules()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for module, mode in modes.items():
            module.training = mode


def random_state() -> dict[str, Any]:
    """The state of every random source that training draws from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": np.random.get_state(), "python": random.getstate()}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Bring back what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def cloned(value: Any) -> Any:
    """A deep copy; DTensors have none of their own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: cloned(v) for k, v in value.items()}
    return [cloned(v) for v in value] if isinstance(value, list) else copy.deepcopy(value)
