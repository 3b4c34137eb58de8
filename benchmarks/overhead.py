"""What do the rules cost? Step time and peak memory of our Trainer beside transformers' own.

    python benchmarks/overhead.py --quick      few steps, the governed run at 512 alone     (under five minutes)
    python benchmarks/overhead.py              more steps, the governed run at both sizes   (twenty minutes)
    python benchmarks/overhead.py --small      tries the script on a small model; judges and writes nothing

A random Llama of 97 million parameters, float32, fused AdamW, 512 and 4,096 new tokens a step. All variants live in one
process and take turns step by step; the figure is the median over steps of the ratio to transformers.Trainer's own
step in the same round, with 95 % (t, of the logarithms). A step is timed from asking for its batch to asking for the
next one; the first, on a few tokens, is left out (allocation). Machines that others share differ by tenths from step
to step, and goals of 2 % and 5 % would take hundreds of steps: so the time inside the rules' own calls is taken as
well, and "in the rules" is the whole step over the rest of it. glibc is told to keep freed memory, for all alike: page
faults would else be a fifth of a step. The governed run is given per new token, and what goes into replay, teacher
and probes stands apart. Peak memory is measured in a process of its own for each, with glibc's own settings: the
highest resident size (allocated memory, on CUDA) above that before the model was built.
Exits 1 when (a) no rules cost more than 1.02 times the original or give other weights, or when (b) frozen + ewc + l2sp
cost more than 1.05 times at 4,096 tokens or 1.15 times at 512: by the time in the rules, or because the whole interval
of the measured steps lies above the goal.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
import transformers
from record import keep, show, verdict
from scipy.stats import t
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as hf_logging

from holdfast.budget import Guard
from holdfast.data.rows import Row, collate
from holdfast.governor import Governor
from holdfast.movement import Movement
from holdfast.remedies.distill import Distill
from holdfast.remedies.ewc import EWC
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.replay import Replay
from holdfast.rule import Rule
from holdfast.run import Run
from holdfast.strategies.frozen import Frozen
from holdfast.training import Trainer

LENGTH, VOCABULARY, LOOK = 512, 16000, 4
THEIRS, PLAIN, ANCHORED, GOVERNED = "transformers.Trainer", "no rules", "frozen + ewc + l2sp", "governed"
GOALS = {(PLAIN, 512): 1.02, (PLAIN, 4096): 1.02, (ANCHORED, 512): 1.15, (ANCHORED, 4096): 1.05}
HEAD = ("new tokens", "variant", "step time (95 %)", "in the rules", "goal", "peak memory", "same weights")
ABOUT = (
    "Step time and peak memory as multiples of `transformers.Trainer` on the same rows, a random Llama of 97 million "
    "parameters, float32, fused AdamW; all variants take turns step by step in one process. The governed run is given "
    "per new token. Fisher information and base scores, made once before the first step, are in none."
)
EVERY = (THEIRS, PLAIN, ANCHORED, GOVERNED)


@dataclass(frozen=True)
class Stage:
    """New tokens a step, how many steps, which variants, and of which of them the memory is measured."""

    tokens: int
    steps: int
    names: Sequence[str]
    weighed: Sequence[str]


QUICK = (Stage(512, 4, EVERY, (THEIRS, ANCHORED)), Stage(4096, 2, (THEIRS, ANCHORED), ()))
FULL = (Stage(512, 16, EVERY, EVERY), Stage(4096, 4, EVERY, EVERY))
KEEPS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 28),
         "MALLOC_ARENA_MAX": "1"}  # fmt: skip
"""glibc keeps what is freed, and all threads share it."""
SMALL = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4}
LARGE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}


def rows(count: int, seed: int, length: int = LENGTH) -> list[Row]:
    ids = torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed)).tolist()
    return [{"input_ids": r, "labels": list(r)} for r in ids]


class Looking(Governor):
    """The governor, with the seconds that its looks and its settling take."""

    def __init__(self, every: int):
        super().__init__([Guard("old", rows(LOOK, 2), 10_000, 1.0)], every=every, look=LOOK)
        self.looks: list[float] = []

    def after(self, run: Run) -> None:
        start = now()
        super().after(run)
        if run.step % self.every == 0:
            self.looks.append(now() - start)


def ruled(name: str, every: int) -> list[Rule]:
    """The rules of a variant; the governor looks once, in the last step."""
    if name == ANCHORED:
        return [Frozen("norm"), EWC(rows(2, 1), 100.0, batch_size=2), L2SP(10.0)]
    if name == GOVERNED:
        return [Replay(rows(24, 1), 0.5, labels=False), Distill(8.0), Looking(every)]
    return []


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# Taking turns -------------------------------------------------------------------------------------------------------


class Relay:
    """Lets one of several threads go on at a time, in a fixed order."""

    def __init__(self, names: Sequence[str]):
        self._names, self._turn = list(names), threading.Condition()

    def wait(self, name: str) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._names[0] == name)

    def pass_on(self, *, leave: bool = False) -> None:
        with self._turn:
            first = self._names.pop(0)
            self._names += [] if leave else [first]
            self._turn.notify_all()


class InTurn:
    """Times whole steps of a Trainer, each of which begins when its turn comes."""

    relay: Relay
    name: str
    inside: Inside

    def get_batch_samples(self, *args: Any) -> Any:
        self.lap()
        self.relay.pass_on()
        self.relay.wait(self.name)
        self.started, self.inside.seconds = now(), 0.0
        return super().get_batch_samples(*args)  # type: ignore[misc]

    def _finalize_training(self, *args: Any) -> Any:
        self.lap()
        return super()._finalize_training(*args)  # type: ignore[misc]

    def lap(self) -> None:
        self.times, self.ruled = getattr(self, "times", []), getattr(self, "ruled", [])
        if hasattr(self, "started"):
            self.times.append(now() - self.started)
            self.ruled.append(self.inside.seconds)


class Inside:
    """Seconds inside what hosts and optimisers call of a run, each counted once where calls are nested."""

    CALLS = ((Run, ("batch", "penalty", "watch", "release", "after")), (Movement, ("_remember", "_set_rates", "_edit")))

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0
        for cls, names in self.CALLS:
            for name in names:
                setattr(cls, name, self._timed(getattr(cls, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start, outer = now(), self._depth == 0
            self._depth += 1
            try:
                return call(*args, **kwargs)
            finally:
                self._depth -= 1
                self.seconds += (now() - start) * outer

        return timed


class Theirs(InTurn, transformers.Trainer):
    """The original."""


class Ours(InTurn, Trainer):
    """The original with rules."""


def built(name: str, size: dict[str, int], batch: int, steps: int) -> Any:
    """A trainer of a random model; its first step reads a few tokens, each other step `batch` rows."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=LENGTH, tie_word_embeddings=True, use_cache=False, **size
    )
    args = TrainingArguments(
        output_dir="unused", max_steps=steps + 1, per_device_train_batch_size=batch, learning_rate=1e-4, seed=0,
        optim="adamw_torch_fused", save_strategy="no", logging_strategy="no", disable_tqdm=True, report_to="none",
        train_sampling_strategy="sequential", use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    data = rows(batch, 3, length=8) + rows(batch * steps, 0)
    shared = {"model": LlamaForCausalLM(config), "args": args, "train_dataset": data}
    collator = partial(collate, pad_id=0)
    host: Any = Theirs(**shared, data_collator=collator) if name == THEIRS else Ours(
        **shared, data_collator=collator, rules=ruled(name, steps + 1)
    )  # fmt: skip
    host.remove_callback(PrinterCallback)
    host.name = name
    return host


def raced(hosts: dict[str, Any]) -> dict[str, Any]:
    """All trainers through their steps in turns, by name; they are returned with the times of their steps."""
    relay, threads = Relay(list(hosts)), torch.get_num_threads()

    def train(host: Any) -> None:
        torch.set_num_threads(threads)
        relay.wait(host.name)
        try:
            host.train()
        finally:
            relay.wait(host.name)
            relay.pass_on(leave=True)

    inside = Inside()
    for host in hosts.values():
        host.relay, host.inside = relay, inside
    with ThreadPoolExecutor(len(hosts)) as pool:
        for done in [pool.submit(train, host) for host in hosts.values()]:
            done.result()
    return hosts


# Memory -------------------------------------------------------------------------------------------------------------


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def grown(name: str, size: dict[str, int], tokens: int) -> int:
    """Bytes at the peak of two steps, above those before the model was built; to be asked in a process of its own."""
    start = resident("VmRSS")
    raced({name: built(name, size, tokens // LENGTH, 1)})
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident("VmHWM") - start


def peak(name: str, tokens: int, small: bool) -> int:
    command = [sys.executable, __file__, "--memory", name, "--tokens", str(tokens), *(["--small"] if small else [])]
    usual = {k: v for k, v in os.environ.items() if k not in KEEPS}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=usual).stdout.split()[-1])


# The table ----------------------------------------------------------------------------------------------------------


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def compared(stage: Stage, size: dict[str, int], small: bool) -> tuple[list[list[str]], list[str]]:
    """Rows of the table, and what misses its goal."""
    lines, missed, tokens = [], [], stage.tokens
    hosts = raced({name: built(name, size, tokens // LENGTH, stage.steps) for name in stage.names})
    plain = hosts[THEIRS].times[1:]
    peaks = {name: peak(name, tokens, small) for name in stage.weighed}
    for name, host in hosts.items():
        ratio, low, high = ratios(host.times[1:], plain)
        own = median(whole / (whole - rules) for whole, rules in zip(host.times[1:], host.ruled[1:], strict=True))
        equal, goal = same(host.model, hosts[THEIRS].model), GOALS.get((name, tokens))
        share = f"{peaks[name] / peaks[THEIRS]:.2f}x" if name in peaks else ""
        aim, time_ = "" if goal is None else f"{goal:.2f}x", f"{ratio:.2f}x ({low:.2f} to {high:.2f})"
        said = "" if name in (THEIRS, GOVERNED) else f"{own:.3f}x"
        lines.append(
            [f"{tokens:,}", name, "1" if name == THEIRS else time_, said, aim, share, "yes" if equal else "no"]
        )
        if goal is not None and max(low, own) > goal:
            missed.append(f"{name} at {tokens:,} tokens: {own:.3f}x in the rules, {time_} in all, the goal {goal:.2f}x")
        if name == PLAIN and not equal:
            missed.append(f"{name} at {tokens:,} tokens leave other weights than {THEIRS}")
        if name == GOVERNED:
            lines += apart(host, median(plain), tokens, ratio)
    return lines, missed


def apart(host: Any, plain: float, tokens: int, ratio: float) -> list[list[str]]:
    """What the governed step is made of, in steps of the original on the same new tokens."""
    look = median(next(r for r in host.rules if isinstance(r, Looking)).looks) / plain
    parts = {"new rows": 1.0, "as many replayed rows, teacher, distillation, average": ratio - 1,
             f"each look at {LOOK} rows of the probe": look}  # fmt: skip
    return [[f"{tokens:,}", f"  {part}", f"{value:.2f}x", "", "", "", ""] for part, value in parts.items()]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """The median ratio of steps of the same round, and the 95 % interval of the mean one (t, of the logarithms)."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    spread = stdev(logs) if len(logs) > 1 else 0.0
    if not spread:
        return math.exp(median(logs)), math.exp(median(logs)), math.exp(median(logs))
    low, high = t.interval(0.95, len(logs) - 1, fmean(logs), spread / math.sqrt(len(logs)))
    return math.exp(median(logs)), math.exp(low), math.exp(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--memory", metavar="VARIANT", help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=512, help=argparse.SUPPRESS)
    options = parser.parse_args()
    hf_logging.set_verbosity_error()
    size = SMALL if options.small else LARGE
    if options.memory:
        print(grown(options.memory, size, options.tokens))
        return 0
    if not KEEPS.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEPS})
    found = [compared(s, size, options.small) for s in (QUICK if options.quick or options.small else FULL)]
    lines, missed = [line for part, _ in found for line in part], [text for _, part in found for text in part]
    show("A step beside transformers.Trainer, float32, fused AdamW", HEAD, lines, words=(1,))
    said = verdict(missed, "every goal is met")
    if not options.small:
        keep("overhead.json", about=ABOUT, table={"head": HEAD, "rows": lines}, verdict=said)
    print(said)
    return bool(missed) and not options.small


if __name__ == "__main__":
    sys.exit(main())
