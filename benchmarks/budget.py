"""Does the governor keep its budget, and how much of what could be learnt does it give up for that?

    python benchmarks/budget.py --quick      one seed, full fine-tuning, budget 2 %       (under five minutes)
    python benchmarks/budget.py              seeds 0-4, budgets 1, 2, 5 and 10 %; full and LoRA     (an hour)
    python benchmarks/budget.py --resume     makes the runs that the file of results lacks

Each governed run starts from the same strength and knows nothing of the others. Beside it, on the same rows: plain
fine-tuning; (a) that plain run walked back after training to the same budget; (b) the best of ten runs with fixed
strengths, chosen with hindsight: the most learnt among those whose certificate holds on the audit text.
Exits 1 when a governed certificate does not hold, or when a governed run is more than 5 points of the plain gain
behind (b).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from record import RESULTS, keep, show, verdict
from transformers import TrainingArguments, set_seed
from transformers.utils import logging as hf_logging

from holdfast.adapters.method import methods
from holdfast.base import load_base
from holdfast.budget import Guard
from holdfast.data.rows import Row, collate
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.statistics import Interval, paired
from holdfast.governor import DECAYING, Governor
from holdfast.params.weights import write
from holdfast.recipe.loading import load
from holdfast.recipe.texts import Texts
from holdfast.remedies.distill import Distill
from holdfast.remedies.replay import Replay
from holdfast.rule import Rule
from holdfast.run import Run
from holdfast.training import Trainer

HEAD = ("method", "budget", "certificates", "governed", "lowest", "(a) walked back", "seed 0", "(b) best fixed")
BUDGETS = (0.02, 0.1, 0.05, 0.01)
GRID = tuple(itertools.product((0.25, 0.5), (2.0, 4.0, 8.0, 16.0, 32.0)))
"""Share of replay and strength of distillation: ten runs with fixed strengths."""
START = (0.5, 8.0)
"""Share of old rows (half self-made, half stories) and strength that every governed run starts from."""
SUITE = "tiny/stories"
LENGTH, LOOK = 64, 64
"""Tokens of a row, and rows of a look."""
LEARNING_RATE = {"full": 1e-3, "lora": 1e-2}
Job = dict[str, Any]


class Settle(Rule):
    """After a plain run: for each budget, what is left of it when it is walked back."""

    def __init__(self, governors: dict[float, Governor]):
        self.governors, self.found = governors, {}

    def begin(self, run: Run) -> None:
        for governor in self.governors.values():
            governor.begin(run)

    def end(self, run: Run) -> None:
        with run.aside():
            self.found = {budget: g.settled(run) for budget, g in self.governors.items()}


@cache
def texts(seed: int) -> Texts:
    """The rows of one seed: which documents are kept for what, and what the base makes up, follow from it."""
    recipe = {
        "base": "tiny", "learn": {"data": "tiny/shakespeare", "length": LENGTH}, "seed": seed, "output": "unused",
        "keep": {"probe": "self", "rows": 1024, "suites": [SUITE]},
    }  # fmt: skip
    return Texts(load(recipe), load_base("tiny"))


def guards(rows: Texts, budget: float) -> list[Guard]:
    return [Guard(n, g.control.rows, g.audit.documents, budget) for n, g in rows.guarded.items()]


@cache
def before(seed: int) -> dict[str, tuple[list[Row], SequenceLosses]]:
    """What is measured at the end, and the base's losses on it."""
    rows = texts(seed)
    probes = {"new": rows.learn[1].rows[:512], **{n: g.audit.rows for n, g in rows.guarded.items()}}
    return {name: (probe, sequence_losses(load_base("tiny").model, probe)) for name, probe in probes.items()}


def measured(model: Any, seed: int) -> dict[str, Any]:
    """Gain on held-out new text and rise on each audit text, against the base, with their intervals."""
    rises = {n: paired(losses, sequence_losses(model, probe)) for n, (probe, losses) in before(seed).items()}
    return {"gain": -rises["new"].mean, **{n: interval(r) for n, r in rises.items() if n != "new"}}


def interval(rise: Interval) -> dict[str, float]:
    return {"rise": rise.mean, "low": rise.low, "high": rise.high, "upper": rise.upper}


def settings(method: str, seed: int, steps: int) -> TrainingArguments:
    hf_logging.set_verbosity_error()
    return TrainingArguments(
        output_dir="unused", max_steps=steps, per_device_train_batch_size=16, use_cpu=True, seed=seed,
        learning_rate=LEARNING_RATE[method], lr_scheduler_type="linear", warmup_steps=0.07, weight_decay=0.0,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, report_to="none",
    )  # fmt: skip


def train(job: Job) -> list[Job]:
    """One run, measured; a plain one gives a row for itself and one for each budget that it is walked back to."""
    torch.set_num_threads(1)
    rows, started = texts(job["seed"]), time.perf_counter()
    set_seed(job["seed"])
    model = methods[job["method"]](load_base("tiny").model, seed=job["seed"])
    rules: list[Rule] = []
    if job["kind"] != "plain":
        share, strength = job.get("fixed", START)
        half = share / (1 - share) / 2
        rules = [
            Replay(rows.source("self"), half / (1 + half), labels=False),
            Replay(rows.source(SUITE), half / (1 + 2 * half)),
            Distill(strength),
        ]
    if job["kind"] == "governed":
        rules.append(
            Governor(guards(rows, job["budget"]), every=max(5, job["steps"] // 15), look=LOOK, overshoot=DECAYING)
        )
    settle = Settle({b: Governor(guards(rows, b)) for b in job.get("budgets", [])})
    trainer = Trainer(
        model=model,
        args=settings(job["method"], job["seed"], job["steps"]),
        train_dataset=rows.learn[0],
        data_collator=partial(collate, pad_id=0),
        rules=[*rules, settle],
    )
    trainer.train()
    seconds = time.perf_counter() - started
    done = [{**job, **measured(model, job["seed"]), "seconds": seconds}]
    tensors = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for budget, values in settle.found.items():
        write(tensors, values)
        done.append(
            {**job, "kind": "walked back", "budget": budget, **measured(model, job["seed"]), "seconds": seconds}
        )
    return done


def jobs(quick: bool, steps: int) -> Iterator[Job]:
    kinds = ("full",) if quick else ("full", "lora")
    seeds, budgets = (range(1), (0.02,)) if quick else (range(5), BUDGETS)
    grid = [(0.25, 8.0), (0.5, 8.0), (0.5, 16.0)] if quick else GRID
    shared = [{"method": m, "seed": seed, "steps": steps} for m in kinds for seed in seeds]
    for run in shared:
        yield {"kind": "plain", "budgets": list(budgets), **run}
        yield {"kind": "governed", "budget": budgets[0], **run}
    yield from ({"kind": "governed", "budget": budget, **run} for budget in budgets[1:] for run in shared)
    yield from ({"kind": "fixed", "fixed": setting, **run} for run in shared if run["seed"] == 0 for setting in grid)


def named(job: Job) -> tuple[object, ...]:
    """What a run is told apart by."""
    return job["kind"], job["method"], job["seed"], job.get("budget"), *(job.get("fixed") or ())


def done_before(steps: int) -> list[Job]:
    """The runs of the last results, which have to be of as many steps."""
    found = json.loads((RESULTS / "budget.json").read_text("utf-8"))
    if found["steps"] != steps:
        sys.exit(f"The last results are of {found['steps']} steps, not {steps}: they cannot be resumed.")
    rows: list[Job] = found["runs"]
    return rows


def holds(row: Job, budget: float) -> bool:
    return all(row[text]["upper"] <= torch.tensor(budget).double().log1p().item() for text in ("self", SUITE))


def summary(rows: list[Job]) -> list[Job]:
    """Per method and budget: certificates that hold, and the share of the plain gain that each way keeps."""
    out = []
    for method, budget in sorted({(r["method"], r["budget"]) for r in rows if r["kind"] == "governed"}):
        mine = [r for r in rows if r["method"] == method]
        plain = {r["seed"]: r["gain"] for r in mine if r["kind"] == "plain"}
        kept = {
            kind: {r["seed"]: r["gain"] / plain[r["seed"]] for r in mine if r["kind"] == kind and r["budget"] == budget}
            for kind in ("governed", "walked back")
        }
        governed = [r for r in mine if r["kind"] == "governed" and r["budget"] == budget]
        fixed = [r["gain"] / plain[0] for r in mine if r["kind"] == "fixed" and holds(r, budget)]
        measured = any(r["kind"] == "fixed" for r in mine)
        out.append({
            "method": method, "budget": budget, "seeds": len(governed),
            "held": sum(holds(r, budget) for r in governed),
            "kept": sum(kept["governed"].values()) / len(governed), "least": min(kept["governed"].values()),
            "walked_back": sum(kept["walked back"].values()) / max(len(kept["walked back"]), 1),
            "kept_seed_0": kept["governed"].get(0), "best_fixed_seed_0": max(fixed, default=None), "grid": measured,
        })  # fmt: skip
    return out


def faults(table: list[Job]) -> list[str]:
    said = []
    for row in table:
        name = f"{row['method']} at {row['budget']:.0%}"
        if row["held"] < row["seeds"]:
            said.append(f"{name}: {row['seeds'] - row['held']} of {row['seeds']} certificates do not hold")
        if row["best_fixed_seed_0"] is not None and row["kept_seed_0"] < row["best_fixed_seed_0"] - 0.05:
            said.append(
                f"{name}: {row['best_fixed_seed_0'] - row['kept_seed_0']:.1%} of the plain gain behind the grid"
            )
    return said


def lines(table: list[Job]) -> list[list[str]]:
    out = []
    for row in table:
        percent = [f"{row[k]:.1%}" for k in ("kept", "least", "walked_back", "kept_seed_0")]
        best = row["best_fixed_seed_0"]
        best = f"{best:.1%}" if best is not None else "none holds" if row["grid"] else "not measured"
        out.append([row["method"], f"{row['budget']:.0%}", f"{row['held']}/{row['seeds']} hold", *percent, best])
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--steps", type=int, help="150, with --quick 100")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    steps = options.steps or (100 if options.quick else 150)
    rows = done_before(steps) if options.resume else []
    done = [named(row) for row in rows]
    todo = [job for job in jobs(options.quick, steps) if named(job) not in done]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for i, made in enumerate(pool.map(train, todo), 1):
            rows += made
            told = f"{i}/{len(todo)} {made[0]['kind']} {made[0]['method']} seed {made[0]['seed']}"
            print(told, file=sys.stderr, flush=True)
            if not options.quick:
                keep("budget.json", steps=steps, summary=summary(rows), runs=rows)
    table = summary(rows)
    show("Share of the plain gain that is kept inside the budget", HEAD, lines(table))
    said = faults(table)
    print(verdict(said, "every certificate holds, and the governor is near the best fixed strengths"))
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
