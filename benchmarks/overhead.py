"""What do the rules cost? Step time and peak memory of our Trainer beside transformers' own, in one process.

    python benchmarks/overhead.py --quick      512 and 4,096 tokens a step, few steps      (under five minutes)
    python benchmarks/overhead.py              more steps and rounds

A random Llama of 97 million parameters, float32, fused AdamW. The variants run in turn, round by round, on the same
rows; a step's time is taken between the Trainer's own step callbacks, ratios are of medians, and the first step of each
turn (allocation) is left out. Peak memory is the highest resident size above that at the start of the turn.
Exits 1 when (a) no rules cost more than 1.02 times the original or give other weights, or when (b) frozen + ewc + l2sp
cost more than 1.05 times at 4,096 tokens or 1.15 times at 512.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging as hf_logging

from holdfast.budget import Guard
from holdfast.data.rows import Row, collate
from holdfast.governor import Governor
from holdfast.remedies.distill import Distill
from holdfast.remedies.ewc import EWC
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.replay import Replay
from holdfast.rule import Rule
from holdfast.strategies.frozen import Frozen
from holdfast.training import Trainer

RESULTS = Path(__file__).parent / "results" / "overhead.json"
LENGTH, VOCABULARY = 512, 16000
GOALS = {("no rules", 512): 1.02, ("no rules", 4096): 1.02, ("frozen + ewc + l2sp", 512): 1.15,
         ("frozen + ewc + l2sp", 4096): 1.05}  # fmt: skip


def model() -> LlamaForCausalLM:
    set_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=LENGTH, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def rows(count: int, seed: int) -> list[Row]:
    ids = torch.randint(3, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(seed)).tolist()
    return [{"input_ids": r, "labels": list(r)} for r in ids]


OLD = rows(40, 1)


def no_rules() -> list[Rule]:
    return []


def anchored() -> list[Rule]:
    return [Frozen("norm"), EWC(OLD[:2], 100.0, batch_size=2), L2SP(10.0)]


def governed(steps: int) -> list[Rule]:
    guard = Guard("old", OLD[:16], 10_000, 1.0)
    return [Replay(OLD[16:], 0.5, labels=False), Distill(8.0), Governor([guard], every=steps, look=4)]


class Clock(TrainerCallback):
    """Seconds of each step, from the end of the one before; all that a step does is inside, hooks and looks too."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._last = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter() - self._last)


class TimedMixin:
    """Times whole steps: from before the batch is asked for to after the rules have looked."""

    def get_batch_samples(self, *args: Any) -> Any:
        self.clock._last = time.perf_counter()  # type: ignore[attr-defined]
        return super().get_batch_samples(*args)  # type: ignore[misc]


class Theirs(TimedMixin, transformers.Trainer):
    pass


class Ours(TimedMixin, Trainer):
    pass


def turn(rules: Callable[[], list[Rule]] | None, batch: int, steps: int) -> dict[str, Any]:
    """One short training run of one variant: its step times, peak memory and a digest of its weights."""
    trained = model()
    clock = Clock()
    args = TrainingArguments(
        output_dir="unused", max_steps=steps, per_device_train_batch_size=batch, learning_rate=1e-4, seed=0,
        optim="adamw_torch_fused", save_strategy="no", logging_strategy="no", disable_tqdm=True, report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    shared = {
        "model": trained, "args": args, "train_dataset": rows(batch * steps, 0), "callbacks": None,
        "data_collator": partial(collate, pad_id=0),
    }  # fmt: skip
    trainer: Any = Theirs(**shared) if rules is None else Ours(**shared, rules=rules())
    trainer.clock = clock
    trainer.add_callback(clock)
    start = reset_peak()
    trainer.train()
    peak = memory("VmHWM") - start
    digest = float(sum(p.detach().double().sum() for p in trained.parameters()))
    del trainer, trained
    gc.collect()
    return {"times": clock.times[1:], "peak": peak, "digest": digest}


def reset_peak() -> int:
    """Forget the highest resident size so far; returns the present one, in bytes."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def measure(tokens: int, steps: int, rounds: int, variants: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {"times": [], "peak": 0, "digest": 0.0})
    for _ in range(rounds):
        for name, rules in variants.items():
            once = turn(rules, tokens // LENGTH, steps)
            found[name]["times"] += once["times"]
            found[name]["peak"] = max(found[name]["peak"], once["peak"])
            found[name]["digest"] = once["digest"]
            print(f"{tokens} tokens, {name}: {statistics.median(once['times']):.2f} s", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    hf_logging.set_verbosity_error()
    said, lines = [], []
    shown = Table(title="A step beside transformers.Trainer, 97M parameters, float32, fused AdamW")
    for column in ("tokens a step", "variant", "step time", "goal", "peak memory", "same weights"):
        shown.add_column(column, justify="right")
    for tokens, steps, rounds in ((512, 5, 2), (4096, 3, 1)) if options.quick else ((512, 9, 3), (4096, 4, 3)):
        variants = {
            "transformers.Trainer": None, "no rules": no_rules, "frozen + ewc + l2sp": anchored,
            "governed": partial(governed, steps),
        }  # fmt: skip
        if options.quick and tokens == 4096:
            del variants["governed"]
        found = measure(tokens, steps, rounds, variants)
        theirs = found["transformers.Trainer"]
        for name, mine in found.items():
            ratio = statistics.median(mine["times"]) / statistics.median(theirs["times"])
            same = mine["digest"] == theirs["digest"]
            goal = GOALS.get((name, tokens))
            line = [f"{tokens:,}", name, f"{ratio:.3f}x", "" if goal is None else f"{goal:.2f}x",
                    f"{mine['peak'] / theirs['peak']:.2f}x", "yes" if same else "no"]  # fmt: skip
            shown.add_row(*line)
            lines.append(line)
            if goal is not None and ratio > goal:
                said.append(f"{name} at {tokens} tokens: {ratio:.3f}x, the goal is {goal:.2f}x")
            if name == "no rules" and not same:
                said.append(f"no rules at {tokens} tokens gives other weights")
    Console(width=120).print(shown)
    verdict = "FAIL: " + "; ".join(said) if said else "PASS: every goal is met"
    save(lines, verdict, "python benchmarks/overhead.py" + (" --quick" if options.quick else ""))
    print(verdict)
    return bool(said)


def save(lines: list[list[str]], verdict: str, command: str) -> None:
    head = ["tokens a step", "variant", "step time", "goal", "peak memory", "same weights"]
    about = (
        "Step time and peak memory as multiples of `transformers.Trainer` on the same rows, a random Llama of 97 "
        "million parameters, float32, fused AdamW. The governed variant learns from as many tokens a step, replays as "
        "many again, asks the base about those, and looks at its probe in its last step; Fisher information and base "
        "scores, made once before the first step, are not in a step."
    )
    machine = {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "torch": torch.__version__,
        "gpu": "not measured",
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    found = {"date": date.today().isoformat(), "command": command, "machine": machine, "about": about,
             "table": {"head": head, "rows": lines}, "verdict": verdict}  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    staged = RESULTS.with_suffix(".tmp")
    staged.write_text(json.dumps(found, indent=1))
    staged.replace(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
