"""Is the Fisher information exact, and what does it cost?

    python benchmarks/fisher.py --quick      few rounds, and 2 of the 24 blocks of the larger shape  (under two minutes)
    python benchmarks/fisher.py              more rounds, and all 24 blocks                           (ten minutes)

Five ways to one quantity: `fisher`; a loop over single sequences, which is the definition; `torch.func.vmap(grad)`; the
square of the batch gradient, which some libraries take for it; and the entropy of each token's prediction, one backward
pass after the other, as tutorials have it. All on the embedded base (stories, rows of 256 tokens, batches of 16; the
last on one row, for its time), the first two on random weights in the shape of Qwen2.5-0.5B as well (random tokens).

Time is given in training passes: forward and backward with all weights requiring a gradient, over the same rows in the
same batches, without an optimiser step. All are run in turn; the figure is the median over rounds of the ratio within
a round. On the CPU it is processor time, on one thread unless told, which other programs disturb less than the clock;
the ratio by the clock stands beside it. On CUDA it is the clock. Memory is measured in a process of its own for
each: the peak of the resident size (allocated, on CUDA) above that of the loaded model, the result included.
Exits 1 when `fisher` differs from the loop by more than 1e-5 or costs more than 2 training passes.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import keep
from rich.console import Console
from rich.table import Table
from shapes import random_qwen
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from transformers.utils import logging as hf_logging

from holdfast.base import load_base
from holdfast.data.formats import Text, read
from holdfast.params.fisher import fisher

LENGTH = 256
EXACT, PASSES = 1e-5, 2.0
"""What `fisher` must keep: the largest error beside the loop, and the cost in training passes."""

Batch = dict[str, Tensor]
Values = dict[str, Tensor]


def embedded(rows: int, device: str) -> tuple[nn.Module, list[Batch]]:
    """The embedded base and stories it knows."""
    base = load_base("tiny")
    text = "\n".join(record.text for record in read("tiny/stories") if isinstance(record, Text))
    tokens = torch.tensor(base.tokenizer(text).input_ids)[: rows * LENGTH].view(rows, LENGTH).to(device)
    return base.model.to(device), [{"input_ids": ids, "labels": ids} for ids in tokens.split(16)]


def qwen(blocks: int, rows: int, device: str) -> tuple[nn.Module, list[Batch]]:
    """Random weights in the shape of Qwen2.5-0.5B, or of its first blocks."""
    model = random_qwen(blocks, device)
    tokens = torch.randint(151936, (rows, LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
    return model, [{"input_ids": ids, "labels": ids} for ids in tokens.split(2)]


def training_pass(model: nn.Module, batches: list[Batch]) -> Values:
    """What the costs are measured in: the passes of training, with transformers' own loss."""
    model.train()
    for batch in batches:
        model(**batch).loss.backward()
        model.zero_grad()
    return {}


def squares(model: nn.Module, batches: list[Batch]) -> Values:
    """The squared gradient of each batch's mean over its sequences of the summed loss, averaged over the sequences."""
    model.eval()
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for batch in batches:
        size, tokens = batch["labels"].shape
        (model(**batch).loss * (tokens - 1)).backward()
        for name, p in model.named_parameters():
            total[name] += size * p.grad.square()
        model.zero_grad()
    return {n: t / sum(len(b["labels"]) for b in batches) for n, t in total.items()}


def loop(model: nn.Module, batches: list[Batch]) -> Values:
    """The definition: the squared gradient of one sequence at a time."""
    return squares(model, [{k: v[i : i + 1] for k, v in b.items()} for b in batches for i in range(len(b["labels"]))])


def vmapped(model: nn.Module, batches: list[Batch]) -> Values:
    """All gradients of a batch at once through torch.func."""
    model.eval()
    weights = {n: p.detach() for n, p in model.named_parameters()}

    def loss(weights: Values, ids: Tensor) -> Tensor:
        logits = functional_call(model, weights, (), {"input_ids": ids[None], "use_cache": False}).logits[0, :-1]
        return cross_entropy(logits, ids[1:], reduction="sum")

    gradients = vmap(grad(loss), in_dims=(None, 0))
    total = {n: torch.zeros_like(p) for n, p in weights.items()}
    for batch in batches:
        for name, values in gradients(weights, batch["input_ids"]).items():
            total[name] += values.square_().sum(0)
    return {n: t / sum(len(b["labels"]) for b in batches) for n, t in total.items()}


def token_by_token(model: nn.Module, batches: list[Batch]) -> Values:
    """A backward pass for the entropy of each prediction, as tutorials have it: another quantity, and a slow one."""
    model.eval()
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for ids in (row for batch in batches for row in batch["input_ids"]):
        chances = model(input_ids=ids[None]).logits[0, :-1].softmax(-1)
        for loss in -(chances * torch.log(chances + 1e-8)).sum(-1):
            gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            for values, gradient in zip(total.values(), gradients, strict=True):
                values += gradient.square()
    return {n: t / sum(len(b["labels"]) for b in batches) for n, t in total.items()}


METHODS: dict[str, Callable[[nn.Module, list[Batch]], Values]] = {
    "loop": loop,
    "training pass": training_pass,
    "holdfast": fisher,
    "vmap(grad)": vmapped,
    "squared batch gradient": squares,
    "token by token": token_by_token,
}


@dataclass(frozen=True)
class Case:
    """One model with its rows; memory is taken of the methods in `weighed`."""

    name: str
    build: Callable[[str], tuple[nn.Module, list[Batch]]]
    methods: tuple[str, ...]
    weighed: tuple[str, ...]
    rounds: int


def cases(quick: bool) -> list[Case]:
    """What is measured."""
    rows, rounds, blocks = (32, 3, 2) if quick else (64, 7, 24)
    every, single = tuple(METHODS)[:5], ("loop", "training pass", "token by token")
    shape = f"Qwen2.5-0.5B shape, {blocks} of 24 blocks, 2 rows"
    return [
        Case(f"embedded base, {rows} rows", partial(embedded, rows), every, every, rounds),
        Case("embedded base, 1 row", partial(embedded, 1), single, single, 1 if quick else 3),
        Case(shape, partial(qwen, blocks, 2), every[:3], () if quick else every[:3], 1),
    ]


def measured(case: Case, device: str, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """For each method seconds and processor seconds, round after round, and how close it is to the loop."""
    model, batches = case.build(device)
    records: dict[str, dict[str, Any]] = {m: {"seconds": [], "processor_seconds": []} for m in case.methods}
    truth: Values = {}
    for turn in range(case.rounds):
        for method in case.methods:
            say(f"{case.name}: round {turn + 1} of {case.rounds}, {method}")
            gc.collect()
            wall, processor = time.perf_counter(), time.process_time()
            values = METHODS[method](model, batches)
            if device == "cuda":
                torch.cuda.synchronize()
            records[method]["seconds"].append(round(time.perf_counter() - wall, 4))
            records[method]["processor_seconds"].append(round(time.process_time() - processor, 4))
            truth = truth or values
            if values and turn == 0:
                records[method] |= compared(values, truth)
            del values
    return records


def compared(values: Values, truth: Values) -> dict[str, float]:
    """Largest error beside the loop, cosine, and ratio of the sums, over all weights.

    The error of a tensor is relative to the largest value in it; where a tensor is zero but for rounding (a key's
    bias cancels in the softmax), to 1e-9 of the largest value of all.
    """
    floor = 1e-9 * max(float(t.max()) for t in truth.values())
    error, sums = 0.0, torch.zeros(5, dtype=torch.float64)
    for name, true in truth.items():
        error = max(error, float((values[name] - true).abs().max()) / max(float(true.max()), floor))
        a, b = values[name].flatten().double(), true.flatten().double()
        sums += torch.stack([a @ b, a @ a, b @ b, a.sum(), b.sum()]).cpu()
    inner, own, other, mass, whole = sums.tolist()
    return {"error": error, "cosine": inner / (own * other) ** 0.5, "mass": mass / whole}


def peak(place: int, method: str, device: str, arguments: argparse.Namespace) -> float | None:
    """Peak memory of one call above that of the loaded model, in MiB; None where the system does not tell."""
    prepare(arguments.threads)
    model, batches = cases(arguments.quick)[place].build(device)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        METHODS[method](model, batches)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the recorded peak back to the present size
    except OSError:
        return None
    before = resident("VmRSS")
    METHODS[method](model, batches)
    return resident("VmHWM") - before


def resident(which: str) -> float:
    """A line of /proc/self/status in MiB: VmRSS, the present resident size, or VmHWM, its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{which}:")[1].split()[0]) / 1024


def bench(device: str, arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All cases on one device: case -> method -> figures."""
    report: dict[str, Any] = {}
    context = get_context("forkserver")
    context.set_forkserver_preload(["holdfast.params.fisher", "holdfast.base", "rich.table"])
    for place, case in enumerate(cases(arguments.quick)):
        records = measured(case, device, say)
        for method in case.weighed:
            say(f"{case.name}: memory of {method}")
            with ProcessPoolExecutor(1, context) as alone:
                records[method]["peak_mib"] = alone.submit(peak, place, method, device, arguments).result()
        for record in records.values():
            clock, own = (
                median(a / b for a, b in zip(record[kind], records["training pass"][kind], strict=False))
                for kind in ("seconds", "processor_seconds")
            )
            record |= {"training_passes": clock if device == "cuda" else own, "by_the_clock": clock}
        report[case.name] = records
    return report


def prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="There is a performance drop")  # of attention under vmap


def table(title: str, records: dict[str, dict[str, Any]]) -> Table:
    shown = Table(title=title, title_justify="left")
    for heading in ("", "error", "cosine", "mass", "passes", "by clock", "MiB"):
        shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for method, r in records.items():
        close = [f"{r['error']:.1e}", f"{r['cosine']:.4f}", f"{r['mass']:.4f}"] if "error" in r else [""] * 3
        cost = [f"{r['training_passes']:.2f}", f"{r['by_the_clock']:.2f}"]
        shown.add_row(method, *close, *cost, f"{r['peak_mib']:,.0f}" if r.get("peak_mib") else "")
    return shown


def verdict(devices: dict[str, Any]) -> tuple[bool, str]:
    """Whether `fisher` is exact and cheap everywhere, and one line that says so."""
    ours = [c["holdfast"] for r in devices.values() if isinstance(r, dict) for c in r.values() if "holdfast" in c]
    error, cost = max(r["error"] for r in ours), max(r["training_passes"] for r in ours)
    held = error <= EXACT and cost <= PASSES
    figures = f"largest error {error:.1e} (limit {EXACT:.0e}), at most {cost:.2f} training passes (limit {PASSES:g})"
    return held, f"{'PASS' if held else 'FAIL'}: {figures}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under two minutes on two cores")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch uses")
    parser.add_argument("--output", type=Path, default="fisher.json", help="where the figures are written")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    console, start, load = Console(), time.perf_counter(), round(os.getloadavg()[0], 2)
    devices = dict[str, Any](cuda="not measured")
    with console.status("starting") as status:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            devices[device] = bench(device, arguments, status.update)
    for device, report in devices.items():
        tables = [table(f"{device}: {case}", r) for case, r in report.items()] if isinstance(report, dict) else []
        console.print(*tables or [f"{device}: {report}"], sep="\n")
    held, line = verdict(devices)
    keep(arguments.output, verdict=line, seconds=round(time.perf_counter() - start, 1), threads=arguments.threads,
         load_average=load, devices=devices)  # fmt: skip
    print(line)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
