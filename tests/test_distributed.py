"""Two processes: the example ends where one process ends, and rules keep their word on parts of tensors too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from holdfast.tiny import MODEL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[1]
EXAMPLE = "examples/two_processes.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def ran(*command: str | Path) -> str:
    """What a command prints, run from the root of the project on one thread in each process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def left(folder: Path) -> tuple[Mapping[str, torch.Tensor], list[dict[str, Any]]]:
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return load_file(folder / "weights.safetensors"), [json.loads(line) for line in lines]


def actions(journal: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(line["step"], line["action"], line["strengths"]) for line in journal if line["kind"] == "governor"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves."""
    folder = tmp_path_factory.mktemp("alone")
    ran(sys.executable, EXAMPLE, "--output", folder)
    return folder


@pytest.mark.parametrize("options", [[], ["--shard"]], ids=["copies", "parts"])
def test_two_processes_end_where_one_does(options: list[str], alone: Path, tmp_path: Path) -> None:
    assert "trained by 2 processes" in ran(*TORCHRUN, EXAMPLE, *options, "--output", tmp_path)
    (one, journal), (two, other) = left(alone), left(tmp_path)
    base = load_file(MODEL / "model.safetensors")
    assert actions(journal) == actions(other) and len(actions(journal)) > 3
    for name, weight in one.items():
        moved = (weight - base[name]).abs().max()
        assert (weight - two[name]).abs().max() <= 1e-3 * moved
        assert (moved == 0) == (".layers.0." in name)


def test_every_promise_is_kept_by_two_processes_on_copies_and_on_parts(tmp_path: Path) -> None:
    ran(*TORCHRUN, "-m", "tests.two_ranks", tmp_path)
