"""Avalanche's strategies on the sequences of benchmarks/sequence.py, in an environment of their own.

The environment is made when it is first asked for, in .venv-avalanche beside the project: torch first and by its
version here, then avalanche-lib without its dependencies (it asks for torchvision, whose build for another torch would
come with it) and what of them it imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_model

from holdfast.base import load_base
from holdfast.evaluation.statistics import paired
from holdfast.recipe.training import training_arguments
from holdfast.sequence import SequenceRecipe
from holdfast.sequence.material import Material
from holdfast.sequence.scores import matrices, measured
from holdfast.tiny import MODEL

HERE = Path(__file__).resolve().parent
VENV = HERE.parents[1] / ".venv-avalanche"
SCRIPT = HERE / "avalanche_sequence.py"
AVALANCHE: dict[str, dict[str, Any]] = {
    "Avalanche's EWC, 1,000": {"way": "ewc", "strategy": {"ewc_lambda": 1e3}},
    "Avalanche's EWC, 10,000": {"way": "ewc", "strategy": {"ewc_lambda": 1e4}},
    "Avalanche's replay": {"way": "replay", "strategy": {"mem_size": 2048, "batch_size_mem": 6}},
}
NEEDED = ["torchvision", "torchmetrics", "numpy", "psutil", "gputil", "scikit-learn", "matplotlib", "tqdm", "dill",
          "packaging", "typing-extensions", "setuptools", "gdown", "pytorchcv", "wandb", "tensorboard", "qpsolvers",
          *(f"{name}=={version(name)}" for name in ("transformers", "safetensors"))]  # fmt: skip


@cache
def environment() -> str:
    """Why there is no environment; empty where there is one. The first call makes it, which takes minutes."""
    python = VENV / "bin" / "python"
    if (VENV / "made").is_file():
        return ""
    torch = f"torch=={version('torch').partition('+')[0]}"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    print(f"Making {VENV} for Avalanche (once, some minutes) ...", file=sys.stderr, flush=True)
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        [*pip, torch],
        [*pip, "--no-deps", "avalanche-lib==0.6.0"],
        [*pip, torch, *NEEDED],
        [str(python), "-W", "ignore", str(SCRIPT)],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            return f"{' '.join(step[-3:])}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}"
    (VENV / "made").touch()
    return ""


def avalanche(way: str, recipe: SequenceRecipe, folder: Path) -> dict[str, Any]:
    """What an Avalanche strategy makes of a sequence, on its rows, measured on its test records."""
    base = load_base(recipe.base)
    material = Material(recipe, base)
    stages = [measured(material, base, 0)]
    train = training_arguments(recipe.of(0), 1, folder)
    job = {**AVALANCHE[way], "model": str(MODEL), "steps": train.max_steps, "batch": train.train_batch_size,
           "rate": train.learning_rate, "seed": recipe.seed, "tasks": []}  # fmt: skip
    for lesson in material.lessons:
        file = folder / f"{lesson.name}.json"
        file.write_text(json.dumps([[row["input_ids"], row["labels"]] for row in lesson.rows]), "utf-8")
        job["tasks"].append(str(file))
    (folder / "job.json").write_text(json.dumps(job), "utf-8")
    command = [str(VENV / "bin" / "python"), "-W", "ignore", str(SCRIPT), str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for stage in range(1, len(material.lessons) + 1):
        load_model(base.model, folder / f"{stage}.safetensors")
        stages.append(measured(material, base, stage))
    done = json.loads((folder / "done.json").read_text("utf-8"))
    (text,) = material.general
    rise = paired(stages[0].losses["audit"][text], stages[-1].losses["audit"][text])
    accuracy = matrices(material.lessons, stages, recipe.seed)["accuracy"].told()
    return {"accuracy": accuracy, "stories": {"mean": rise.mean, "low": rise.low, "high": rise.high},
            "seconds": sum(done["seconds"]), "bytes": done["bytes"]}  # fmt: skip
