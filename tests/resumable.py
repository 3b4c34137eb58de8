"""A small governed run with every kind of state, which tests stop, kill and resume; as a script it runs in a folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from holdfast.budget import Guard
from holdfast.evaluation.monitor import Monitor
from holdfast.governor import Governor
from holdfast.rule import During, Rule
from holdfast.strategies.frozen import Frozen
from tests.models import build
from tests.test_every_rule import ROWS
from tests.test_training import all_rules, settings, trainer


def governed() -> list[Rule]:
    """Rules with generators, orders, strengths, anchors, importance, averages and a tensor that is held for a while."""
    guard = Guard("old", ROWS[16:], 500, 5.0)
    return [
        *all_rules(),
        During(2, 5, Frozen("layers(2:3)")),
        Monitor({}, {"old": ROWS[:4]}, every=3),
        Governor([guard], every=2, look=4),
    ]


class Slowly(TrainerCallback):
    """Tells each step, and leaves time for a signal to arrive."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        print(f"step {state.global_step}", flush=True)
        time.sleep(0.1)


def made(folder: Path, **more: Any) -> Any:
    """The trainer of the run: dropout, shuffled data, accumulation; 8 steps, a checkpoint every 2."""
    callbacks, rules, model = more.pop("callbacks", []), more.pop("rules", None), more.pop("model", None)
    given = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    args = settings(folder, **{**given, "train_sampling_strategy": "random", **more})
    model = build("llama", dropout=0.1) if model is None else model
    return trainer(model, args, governed() if rules is None else rules, callbacks=callbacks)


def figures(host: Any) -> list[dict[str, Any]]:
    """The logged lines without times."""
    lines = [line for line in host.state.log_history if "loss" in line]
    return [{k: v for k, v in line.items() if "second" not in k and "runtime" not in k} for line in lines]


if __name__ == "__main__":
    torch.set_num_threads(1)
    made(Path(sys.argv[1]), max_steps=200, save_steps=100, callbacks=[Slowly()]).train()
    print("stopped by itself", flush=True)
