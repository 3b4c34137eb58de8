"""How much does a self-made probe flatter, and what narrows the gap for users who have no old text at all?

    python benchmarks/selfmade.py [--quick]

Each run guards and replays nothing but text that the base made up, in one of several ways, with a budget of 2 %; then
the rise on held-out real stories, which steered nothing, is measured beside the rise on self-made text.
No goal is stated: the table is the result.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from budget import LENGTH, LOOK, SUITE, before, measured, settings, texts
from record import keep, show
from transformers import set_seed

from holdfast.base import load_base
from holdfast.budget import Guard
from holdfast.data.rows import Row, collate
from holdfast.data.sampling import self_generated
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.statistics import paired
from holdfast.governor import DECAYING, Governor
from holdfast.remedies.distill import Distill
from holdfast.remedies.replay import Replay
from holdfast.training import Trainer

HEAD = ("text made up", "gain (nats)", "perplexity, self-made", "perplexity, real stories", "95 %")
WAYS: dict[str, dict[str, Any]] = {
    "temperature 1": {},
    "temperatures 0.7, 1, 1.3": {"temperature": (0.7, 1.0, 1.3)},
    "begun with rare tokens": {"prompts": "rare"},
    "without near-duplicates": {"near_duplicates": False},
    "half the budget": {"budget": 0.01},
}


def train(job: tuple[str, int, int]) -> dict[str, Any]:
    """One governed run that knows no real old text."""
    way, seed, steps = job
    torch.set_num_threads(1)
    knobs = dict(WAYS[way])
    budget = knobs.pop("budget", 0.02)
    rows, base = texts(seed), load_base("tiny")
    drawn = [
        self_generated(base.model, base.tokenizer, n=1024, length=2 * LENGTH, seed=1000 + 10 * seed + part, **knobs)
        for part in range(2)
    ]
    replayed, control = ([half for row in part for half in halves(row)] for part in drawn)
    set_seed(seed)
    guard = Guard("self", control, rows.guarded["self"].audit.documents, budget)
    governor = Governor([guard], every=max(5, steps // 15), look=LOOK, overshoot=DECAYING)
    model = load_base("tiny").model
    trainer = Trainer(
        model=model,
        args=settings("full", seed, steps),
        train_dataset=rows.learn[0],
        data_collator=partial(collate, pad_id=0),
        rules=[Replay(replayed, 1 / 3, labels=False), Distill(8.0), governor],
    )
    trainer.train()
    found = measured(model, seed)
    probe, losses = before(seed)[SUITE]
    real = paired(losses, sequence_losses(model, probe))
    return {"way": way, "seed": seed, "gain": found["gain"], "self": found["self"]["rise"], "real": real.mean,
            "low": real.low, "high": real.high}  # fmt: skip


def halves(row: Row) -> list[Row]:
    return [{k: v[:LENGTH] for k, v in row.items()}, {k: v[LENGTH:] for k, v in row.items()}]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    ways, steps = (list(WAYS)[:2], 60) if options.quick else (list(WAYS), 250)
    todo = [(way, 0, steps) for way in ways]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(train, todo))
    lines = []
    for row in found:
        percent = [f"{math.expm1(row[k]):+.1%}" for k in ("self", "real", "low", "high")]
        lines.append([row["way"], f"{row['gain']:.2f}", *percent[:2], " to ".join(percent[2:])])
    show("Guarded by self-made text alone: what happens to real old text", HEAD, lines)
    if not options.quick:
        keep("selfmade.json", steps=steps, runs=found)
    print("PASS: measured; no goal is stated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
