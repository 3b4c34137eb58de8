"""Five tasks one after the other: what is learnt, and what is left of it and of the stories in the end?

    python benchmarks/sequence.py --quick     three tasks, one order, one seed; writes nothing    (five minutes)
    python benchmarks/sequence.py             the ways that the goals name in three orders with three seeds, peers in
                                              three orders, single remedies in one                     (an hour)

The embedded base learns snips, bAbI qa1, trec, the banking part of clinc150 and SCAN (at most 1,500 records of at most
70 tokens of each), the same number of steps each. An answer is right when greedy writing matches it exactly. ACC,
learning accuracy and BWT are those of `holdfast.evaluation.matrix`; stories are held-out ones that no way learns from,
in nats above the base. Seconds are those of training alone, tensors those alive in its last step. Peers read the same
records and answer the same test items. The settings of the default recipe and the learning rates of plain fine-tuning
were chosen on another order and another seed.

Goals for the default recipe (recipes/sequence.yaml): against sequential LoRA a BWT at least 80 % closer to 0 at 99 % of
the learning accuracy; ACC within 2 points of joint training; stories at most 0.03 nats worse; and against each peer
less forgetting at equal learning, in no more time. Exits 1 when one is missed. Without the data sets, which lie
beside the project only where it is developed, nothing is measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from peers.environment import AVALANCHE, avalanche, environment
from record import RESULTS, keep, show, verdict
from sequence_summary import DEFAULT, FULL, HEAD, LORA, goals, lines, said, summary
from transformers.utils import logging as hf_logging

from holdfast.base import load_base
from holdfast.data.formats import Completion
from holdfast.data.rows import encode
from holdfast.data.sources import raw
from holdfast.evaluation.statistics import paired
from holdfast.recipe.loading import values
from holdfast.sequence import load, run
from holdfast.sequence.scores import read_scores

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "tasks"
QA1 = "babi/qa1_single_supporting_fact"
FILES = {
    "snips": ("snips/snips.train.jsonl.gz", "snips/snips.test.jsonl"),
    "qa1": (f"{QA1}.train.jsonl.gz", f"{QA1}.test.jsonl.gz"),
    "trec": ("trec/trec.train.jsonl", "trec/trec.test.jsonl"),
    "clinc150": ("clinc150/clinc150.train.jsonl.gz", "clinc150/clinc150.test.jsonl.gz"),
    "scan": ("scan/simple.train.jsonl.gz", "scan/simple.test.jsonl.gz"),
}
ORDERS = (
    "snips qa1 trec clinc150 scan",
    "scan clinc150 qa1 snips trec",
    "clinc150 trec scan qa1 snips",
)
DOMAIN, LONGEST, ROWS, STORIES = "banking", 70, 1500, "tiny/stories"
STEPS, ITEMS, SEEDS = 150, 100, 3
HELD = tempfile.TemporaryDirectory()
KEYS = ("way", "order", "seed", "steps", "items")
Job = dict[str, Any]

ADAPTER = {"method": {"name": "lora", "rank": 16, "targets": "mlp"}, "train": {"learning_rate": 5e-3}}
WHOLE = {"method": {"name": "full"}, "train": {"learning_rate": 2e-3}}


def alone(*rules: Job, **more: Any) -> Job:
    """A remedy by itself, on sequential LoRA."""
    return {**ADAPTER, "rules": list(rules), **more}


NAMED: dict[str, Job] = {DEFAULT: {}, LORA: alone(), FULL: {**WHOLE, "rules": []}}
OLORA = alone({"olora": {"adapters": "tasks", "strength": 0.5}}, adapter="merge")
REMEDIES: dict[str, Job] = {
    "replay": alone({"replay": {"share": 0.25, "source": "tasks"}}),
    "distill (new rows)": alone({"distill": {"where": "new"}}),
    "ewc": alone({"ewc": {"source": "before", "importance": "before"}}),
    "mas": alone({"mas": {"source": "before", "importance": "before"}}),
    "si": alone({"si": {"importance": "before"}}),
    "l2sp": alone({"l2sp": {}}),
    "agem": alone({"agem": {"source": "tasks"}}),
    "migu": alone({"migu": {}}),
}
PEERS: dict[str, Job] = {
    "PEFT's OSF": {**WHOLE, "method": {"name": "osf", "targets": "mlp"}, "rules": [], "adapter": "merge"},
    "O-LoRA (squared overlaps)": OLORA,
    "plain replay, equal tokens": {"plain": True},
}

WAYS = {**NAMED, **PEERS, **REMEDIES, **dict.fromkeys(AVALANCHE, NAMED[FULL])}


@cache
def files() -> dict[str, tuple[str, str]]:
    """The tasks' records that are short enough, train and test, in files for this process."""
    tokenizer, folder, made = load_base("tiny").tokenizer, Path(HELD.name), {}
    for name, parts in FILES.items():
        made[name] = str(folder / f"{name}.train.jsonl"), str(folder / f"{name}.test.jsonl")
        for source, target, most in zip(parts, made[name], (ROWS, None), strict=True):
            fit = [f for _, _, f in raw(DATA / source, "train") if f.get("domain", DOMAIN) == DOMAIN]
            short = [f for f in fit[: 4 * ROWS] if not encode(_asked(f), tokenizer, length=LONGEST)[1]]
            Path(target).write_text("\n".join(json.dumps(_plain(f)) for f in short[:most]), "utf-8")
    return made


def _asked(fields: Job) -> Completion:
    return Completion(fields["prompt"], f" {fields['answer']}")


def _plain(fields: Job) -> Job:
    return {"prompt": fields["prompt"], "answer": fields["answer"]}


def recipe(job: Job, folder: Path) -> Any:
    """The sequence of a job: the shipped recipe, with these tasks and what its way says instead."""
    base, way = values("sequence"), WAYS.get(job["way"], {})
    if way.get("plain"):
        way = {"rules": plain(base["rules"])}
    tasks = [
        {"name": name, "data": files()[name][0], "evaluation": files()[name][1], "metric": "exact_match",
         "items": job["items"]}
        for name in job["order"].split()
    ]  # fmt: skip
    train = {"max_steps": job["steps"], "use_cpu": True}
    return load({
        **base, **way, "tasks": tasks, "train": {**base["train"], **way.get("train", {}), **train},
        "references": ["joint"] if job.get("joint") else [], "monitor": {"every": 10**6}, "samples": {"tokens": 1},
        "seed": job["seed"], "output": str(folder),
    })  # fmt: skip


def plain(rules: list[Job]) -> list[Job]:
    """The same rows, all of them learnt, and no distillation."""
    return [{"replay": {k: v for k, v in r["replay"].items() if k != "labels"}} for r in rules if "replay" in r]


class Alive:
    """Counts the bytes of the tensors that are alive in the last step of the last task."""

    def __init__(self, tasks: int):
        self.left, self.bytes = tasks, 0

    def __call__(self, line: Any) -> None:
        if line["kind"] == "step" and line["step"] == line["of"]:
            self.left -= 1
            if not self.left:
                found = (t.untyped_storage() for t in gc.get_objects() if issubclass(type(t), torch.Tensor))
                self.bytes = sum({s._cdata: s.nbytes() for s in found}.values())


def sequence(job: Job) -> Job:
    """One sequence, measured; with `joint` also what joint training of the same method reaches."""
    torch.set_num_threads(1)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    with tempfile.TemporaryDirectory() as temporary:
        folder, alive = Path(temporary) / "run", Alive(len(job["order"].split()))
        own = recipe(job, folder)
        if job["way"] in AVALANCHE:
            done = avalanche(job["way"], own, Path(temporary))
            return {**job, **told(done.pop("accuracy")), **done}
        matrix = run(own, progress=alive).matrix
        assert matrix is not None
        found = {**job, **told(matrix["accuracy"]), "stories": matrix["general"][STORIES][-1],
                 "seconds": sum(matrix["seconds"]), "bytes": alive.bytes}  # fmt: skip
        if job.get("joint"):
            before, after = (read_scores(folder, stage).losses["audit"][STORIES] for stage in ("0", "joint"))
            found["together"] = {"acc": matrix["references"]["joint"]["accuracy"]["mean"],
                                 "stories": paired(before, after).mean}  # fmt: skip
        return found


def told(accuracy: Job) -> Job:
    figures = {key: entry["mean"] for key, entry in accuracy["figures"].items()}
    cells = [[cell and round(cell["mean"], 4) for cell in row] for row in accuracy["cells"]]
    return {"acc": figures["accuracy"], "learnt": figures["learning_accuracy"], "bwt": figures["backward_transfer"],
            "cells": cells}  # fmt: skip


def jobs(quick: bool, steps: int) -> Iterator[Job]:
    """The ways that the goals name first, for all orders and seeds; then the others, for all orders and one seed."""
    size = {"steps": steps, "items": 50 if quick else ITEMS}
    if quick:
        order = " ".join(ORDERS[0].split()[:3])
        yield from ({"way": w, "order": order, "seed": 0, "joint": w == LORA, **size} for w in (LORA, DEFAULT))
        return
    for seed in range(SEEDS):
        for place, order in enumerate(ORDERS):
            for way in NAMED:
                yield {"way": way, "order": order, "seed": seed, "joint": way != DEFAULT and not place, **size}
        if not seed:
            for way in [*PEERS, *(() if environment() else AVALANCHE)]:
                yield from ({"way": way, "order": order, "seed": 0, **size} for order in ORDERS)
            yield from ({"way": way, "order": ORDERS[0], "seed": 0, **size} for way in REMEDIES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--resume", action="store_true", help="keep the runs that the last results hold")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"SKIPPED: the data sets are not in {DATA}")
        return 0
    kept = RESULTS / "sequence.json"
    found = json.loads(kept.read_text("utf-8"))["runs"] if options.resume and kept.is_file() else []
    known = [{key: run[key] for key in KEYS} for run in found]
    todo = [job for job in jobs(options.quick, options.steps) if {key: job[key] for key in KEYS} not in known]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for i, done in enumerate(pool.map(sequence, todo), 1):
            found.append(done)
            what = f"ACC {done['acc']:.1%}, BWT {done['bwt']:+.1%}, stories {done['stories']['mean']:+.3f}"
            print(f"{i}/{len(todo)} {done['way']}, seed {done['seed']}: {what}", file=sys.stderr, flush=True)
            if not options.quick:
                keep("sequence.json", steps=options.steps, items=ITEMS, missing=environment(), summary=summary(found),
                     goals=goals(found, (*PEERS, *AVALANCHE)), runs=found)  # fmt: skip
    reached = goals(found, (*PEERS, *AVALANCHE))
    show("Tasks one after the other", HEAD, lines(summary(found)))
    print("\n".join(map(said, reached)))
    if not options.quick and environment():
        print(f"SKIPPED: Avalanche could not be installed ({environment()})")
    missed = [goal["goal"] for goal in reached if not goal["met"]]
    print(verdict(missed, "every goal is reached"))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
