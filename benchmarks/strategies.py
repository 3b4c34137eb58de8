"""Which strategies forget less for what they learn?

    python benchmarks/strategies.py --quick     one seed, one task, 20 steps; step times and snapshots  (five minutes)
    python benchmarks/strategies.py             three seeds, two tasks     (forty minutes of one core)

The embedded base learns snips and bAbI qa1 (records of at most 70 tokens, loss on the answer alone) with AdamW, weight
decay 0.01, warm-up, linear decay, clipping at 1: each way at the same rate, on the same rows in the same order. Learnt
is the share of test answers that greedy writing matches exactly; forgotten the rise of the loss on held-out stories.

What moves less forgets less, so each way is held against plain fine-tuning that learns as much: the lowest line
through the base and what plain fine-tuning reaches with the same seed at five rates. That line is drawn with hindsight,
so it is a little too good. Neither the rate nor the settings were tuned for any way.

What the ways cost is measured by strategies_cost.py, which --quick runs too. Exits 1 when something that is held
moves; with --quick also when a step or a snapshot is out of the bounds that are stated there. Without the data sets,
which lie beside the project only where it is developed, learning is not measured.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from record import keep, show, verdict
from scipy import stats
from strategies_cost import PLAIN, RATE, SHAPE, WAYS, Setting, Watch, compared, show_cost
from torch import Tensor
from torch.optim import AdamW
from transformers import get_linear_schedule_with_warmup, set_seed

from holdfast.base import load_base
from holdfast.data.formats import Record, read
from holdfast.data.probes import probes
from holdfast.data.rows import Row, collate, encode, rows
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.metrics import exact_match
from holdfast.evaluation.statistics import paired
from holdfast.run import Run

HEAD = ("task", "way", "learnt", "forgotten, nats", "beside plain that learns as much")
TASKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "tasks"
QA1 = "babi/qa1_single_supporting_fact"
FILES = {
    "snips": ("snips/snips.train.jsonl.gz", "snips/snips.test.jsonl"),
    "babi qa1": (f"{QA1}.train.jsonl.gz", f"{QA1}.test.jsonl.gz"),
}
STEPS, TESTS = {"snips": 150, "babi qa1": 200}, 400
LONGEST, BATCH, ANSWER = 70, 16, 14
"""Tokens of a record, records of a step, and most tokens of an answer."""
RATES = {PLAIN: 1.0} | {f"plain, rate x {share:g}": share for share in (2, 0.5, 0.25, 0.125)}
Job = dict[str, Any]


@cache
def stories() -> tuple[list[Row], list[Row], SequenceLosses]:
    """Held-out stories, those that a strategy may look at, and the base's losses on the former."""
    base = load_base("tiny")
    parts = probes("tiny/stories", base, {"measured": 0.6, "looked at": 0.4}, length=128)
    measured = parts["measured"].rows[:256]
    return measured, parts["looked at"].rows, sequence_losses(base.model, measured)


@cache
def task(name: str) -> tuple[list[Row], list[Record]]:
    """Training rows and test records, without those that are too long."""
    tokenizer = load_base("tiny").tokenizer
    train, test = (
        [r for r in read(TASKS / file) if not encode(r, tokenizer, length=LONGEST)[1]] for file in FILES[name]
    )
    return rows(train, tokenizer, length=LONGEST), test[:TESTS]


def batches(source: list[Row], steps: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """The same rows in the same order for every way of a seed."""
    order: list[int] = []
    draw = random.Random(seed)
    for _ in range(steps):
        if len(order) < BATCH:
            order = draw.sample(range(len(source)), len(source))
        yield collate([source[order.pop()] for _ in range(BATCH)], 0)


def train(job: Job) -> Job:
    """One run, measured."""
    torch.set_num_threads(1)
    (new, test), (held_out, old, before), started = task(job["task"]), stories(), time.process_time()
    base, steps = load_base("tiny"), job["steps"]
    optimizer = AdamW(base.model.parameters(), lr=RATE * RATES.get(job["way"], 1.0), weight_decay=0.01)
    rules = WAYS.get(job["way"], WAYS[PLAIN])(Setting(steps, new, old, max(1, steps // 21)))
    set_seed(job["seed"])
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.07 * steps), steps)
    run = Run(base.model, optimizer, rules, seed=job["seed"], scheduler=schedule)
    run.begin()
    watch = Watch(run)
    for batch in batches(new, steps, job["seed"]):
        base.model.train()
        run.advance(batch, clip=1.0)
        watch.look(run)
    run.end()
    after = sequence_losses(base.model, held_out)
    right = exact_match(base.model, base.tokenizer, test[: job["tests"]], max_new_tokens=ANSWER).each()
    asked = rows(test[: job["tests"]], base.tokenizer, length=LONGEST)
    return {
        **job, "accuracy": float(right.mean()), "answer_loss": sequence_losses(base.model, asked).mean(),
        "rise": paired(before, after).mean, "moved": sum(watch.moved().values()),
        "trainable": watch.trainable, "optimiser": watch.optimiser, "faults": watch.faults(job["way"], base.model),
        "seconds": time.process_time() - started, "after": after.total.tolist(),
    }  # fmt: skip


def jobs(quick: bool) -> Iterator[Job]:
    for seed in range(1 if quick else 3):
        for name in ["snips"] if quick else FILES:
            size = {"steps": 20, "tests": 100} if quick else {"steps": STEPS[name], "tests": TESTS}
            names = WAYS if quick else dict.fromkeys([*RATES, *WAYS])
            yield from ({"task": name, "way": way, "seed": seed, **size} for way in names)


# The summary --------------------------------------------------------------------------------------------------------


def line(plain: list[Job], accuracy: float) -> float:
    """The least rise with which plain fine-tuning reaches an accuracy, from the base on through its best runs."""
    best = [(0.0, 0.0)]
    for run in sorted(plain, key=lambda r: r["rise"]):
        if run["accuracy"] > best[-1][0]:
            best.append((run["accuracy"], run["rise"]))
    return float(np.interp(accuracy, *zip(*best, strict=True)))


def against(mine: list[Job], every: list[Job]) -> Job:
    """How far a way's rise is from that of plain fine-tuning with as much learnt: mean and 95 % over seeds."""
    plain = {r["seed"]: [p for p in every if p["way"] in RATES and p["seed"] == r["seed"]] for r in mine}
    apart = [r["rise"] - line(plain[r["seed"]], r["accuracy"]) for r in mine]
    if len(apart) < 2:
        return {"apart": apart[0], "within": None, "verdict": "one seed tells nothing"}
    within = float(stats.t.ppf(0.975, len(apart) - 1)) * stdev(apart) / math.sqrt(len(apart))
    verdict = "no clear difference" if abs(fmean(apart)) <= within else "less" if fmean(apart) < 0 else "more"
    return {"apart": fmean(apart), "within": within, "verdict": verdict}


def forgotten(mine: list[Job]) -> Job:
    """The mean rise over seeds; the interval is over documents, each with all its seeds."""
    before, count = stories()[2], len(mine)
    total = torch.tensor([r["after"] for r in mine], dtype=torch.float64).sum(0)
    both = (SequenceLosses(t, before.tokens * count, before.documents) for t in (before.total * count, total))
    rise = paired(*both)
    return {"rise": rise.mean, "low": rise.low, "high": rise.high}


def summary(found: list[Job]) -> list[Job]:
    """One line for each task and way."""
    out = []
    for name, way in dict.fromkeys((r["task"], r["way"]) for r in found):
        every = [r for r in found if r["task"] == name]
        mine = [r for r in every if r["way"] == way]
        learnt = [r["accuracy"] for r in mine]
        out.append({
            "task": name, "way": way, "seeds": len(mine), "accuracy": fmean(learnt), "lowest": min(learnt),
            "highest": max(learnt), **forgotten(mine), **({} if way in RATES else against(mine, every)),
            "trainable": mine[0]["trainable"], "optimiser": mine[0]["optimiser"],
        })  # fmt: skip
    return out


def lines(table: list[Job]) -> list[list[str]]:
    out = []
    for row in table:
        rise = f"{row['rise']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        apart = f"{row['apart']:+.2f}, {row['verdict']}" if "apart" in row else ""
        out.append([row["task"], row["way"], f"{row['accuracy']:.1%}", rise, apart])
    return out


def learning(quick: bool, workers: int) -> list[str]:
    """All runs; what moved that should not have."""
    todo, found = list(jobs(quick)), list[Job]()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for i, done in enumerate(pool.map(train, todo), 1):
            found.append(done)
            what = f"{done['accuracy']:.1%} learnt, {done['rise']:.2f} nats forgotten, {done['seconds']:.0f} s"
            said = f"{i}/{len(todo)} {done['task']}, {done['way']}, seed {done['seed']}: {what}"
            print(said, file=sys.stderr, flush=True)
            if not quick and (i % 7 == 0 or i == len(todo)):
                save(found)
    show("Answers learnt, stories forgotten", HEAD, lines(summary(found)), words=(0, 1))
    return [fault for run in found for fault in run["faults"]]


def save(found: list[Job]) -> None:
    kept = [{k: v for k, v in r.items() if k != "after"} for r in found]
    keep("strategies.json", steps=STEPS, summary=summary(found), runs=kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    absent = "" if TASKS.is_dir() else f"SKIPPED: learning needs the data sets in {TASKS}, and they are not there"
    missed = [] if absent else learning(options.quick, options.workers)
    if options.quick:
        lines, dear = compared(SHAPE, 10)
        show_cost(lines)
        missed += dear
    if absent:
        print(absent)
    if absent and not options.quick:
        return 0
    held = "nothing held moves" + (", steps and snapshots are in bounds" if options.quick else "")
    print(verdict(missed, held))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
