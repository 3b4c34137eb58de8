"""What does each method learn, and what does it forget?

    python benchmarks/methods.py --quick     a few methods, one seed, one task, 20 steps; step times   (five minutes)
    python benchmarks/methods.py             all methods, three seeds, two tasks, rates tuned alike     (some hours)

The embedded base learns snips and bAbI qa1 (records of at most 70 tokens, loss on the answer alone). Every method has
its learning rate chosen in the same way: of a few rates, the one with most answers right on training records that are
held back, on snips, with a seed of its own. Learnt is the share of test answers that greedy writing matches exactly;
forgotten the rise of the loss on held-out stories, with 95 % over documents. Finished runs are kept in runs/methods, so
that what was interrupted goes on.

Step time is that of Holdfast's Trainer and method beside PEFT's own and transformers' Trainer with the same settings,
which take turns step by step (see overhead.py); peak memory is that of a process of its own. Exits 1 where a step takes
more than 1.02 times as long (the whole interval above it, and the time in the rules too), or leaves other weights. With
a GPU the same is measured on a random model of a billion parameters, 1024 tokens, bfloat16.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import transformers
from overhead import KEEPS, InTurn, ratios, resident
from overhead import raced as in_turns
from peft import PeftModel, get_peft_model
from plane_picture import front
from record import keep, show, verdict
from strategies import ANSWER, BATCH, FILES, LONGEST, STEPS, TASKS, TESTS, forgotten, stories, task
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as hf_logging

import holdfast
from holdfast.adapters.method import methods
from holdfast.adapters.quantised import quantisation
from holdfast.base import load_base
from holdfast.data.formats import Record, read
from holdfast.data.rows import Row, collate, encode
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.metrics import exact_match
from holdfast.evaluation.statistics import paired

Job = dict[str, Any]
LOW, MIDDLE, HIGH = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2), (1e-2, 3e-2, 1e-1)
CASES: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
    "full": ("full", {}, LOW),
    "lora, mlp, rank 8": ("lora", {}, MIDDLE),
    "lora, attention, rank 8": ("lora", {"targets": "attention"}, MIDDLE),
    "lora, all linear, rank 8": ("lora", {"targets": "attention | mlp"}, MIDDLE),
    "lora, mlp, rank 2": ("lora", {"rank": 2}, MIDDLE),
    "lora, mlp, rank 32": ("lora", {"rank": 32}, MIDDLE),
    "lora, mlp of the upper half": ("lora", {"layers": "layers(50%:)"}, MIDDLE),
    "rslora, mlp, rank 32": ("lora", {"rank": 32, "rslora": True}, MIDDLE),
    "dora, mlp, rank 8": ("lora", {"dora": True}, MIDDLE),
    "pissa, mlp, rank 8": ("lora", {"init": "pissa"}, MIDDLE),
    "olora, mlp, rank 8": ("lora", {"init": "olora"}, MIDDLE),
    "eva, mlp, rank 8": ("lora", {"init": "eva"}, MIDDLE),
    "qlora, 4 bits, mlp, rank 8": ("qlora", {}, MIDDLE),
    "adalora, mlp, rank 8": ("adalora", {}, MIDDLE),
    "bottleneck, pfeiffer, 16": ("bottleneck", {"size": 16}, MIDDLE),
    "bottleneck, houlsby, 16": ("bottleneck", {"size": 16, "style": "houlsby"}, MIDDLE),
    "shira, mlp, rank 8": ("shira", {}, MIDDLE),
    "osf, mlp, half kept": ("osf", {}, LOW),
    "vera, mlp": ("vera", {"r": 64}, HIGH),
    "ia3": ("ia3", {}, HIGH),
    "ln": ("ln", {}, HIGH),
    "prompt, 20 tokens": ("prompt", {}, HIGH),
    "ptuning, 20 tokens": ("ptuning", {}, LOW),
    "ptuning2, 20 tokens": ("ptuning2", {}, HIGH),
}  # fmt: skip
FEW = ("full", "lora, mlp, rank 8", "bottleneck, pfeiffer, 16", "prompt, 20 tokens")
COSTLY = ("full", "lora, mlp, rank 8", "dora, mlp, rank 8", "bottleneck, pfeiffer, 16", "ia3", "shira, mlp, rank 8",
          "prompt, 20 tokens", "ptuning2, 20 tokens")  # fmt: skip
TUNING, HELD, TUNING_STEPS = 100, 200, 100
"""The seed of the runs that choose a rate, the training records that they are judged on, and their steps."""
SLOWEST = 1.02
SMALL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}
BILLION = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8}  # fmt: skip
VOCABULARY = 4096
FOLDER = Path(__file__).resolve().parents[1] / "runs" / "methods"
HEAD = ("task", "method", "rate", "learnt (seeds)", "forgotten, nats (95 %)", "trains", "file")
COST = ("method", "step (95 %)", "in the rules", "peak memory", "same weights")
ABOUT = "Beside PEFT and transformers.Trainer with the same settings, in turns; peak memory above that of the process."


# Learning -----------------------------------------------------------------------------------------------------------


def trained(job: Job) -> Job:
    """One run, measured; read from its file where it is there."""
    file = FOLDER / f"{name_of(job)}.json"
    if file.is_file():
        return json.loads(file.read_text("utf-8"))  # type: ignore[no-any-return]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    hf_logging.set_verbosity_error()
    started = time.process_time()
    new, test = task(job["task"])
    if job["tuning"]:
        new, asked = new[:-HELD], tail(job["task"])
    else:
        asked = test[: job["tests"]]
    name, settings, _ = CASES[job["case"]]
    stored = quantisation() if name == "qlora" else None
    base = load_base("tiny", quantization=stored) if stored is not None else load_base("tiny")
    held_out, _, before = stories()
    set_seed(job["seed"])
    given = {"seed": job["seed"], "steps": job["steps"], "rows": new, "tokenizer": base.tokenizer}
    model = methods.apply(name, base.model, settings, **given)
    trainer = host(holdfast.Trainer, model, new, job["steps"], job["rate"], job["seed"], name)
    trainer.train()
    model = trainer.model.eval()
    right = exact_match(model, base.tokenizer, asked, max_new_tokens=ANSWER).each()
    after = sequence_losses(model, held_out)
    found = {
        **job, "accuracy": float(right.mean()), "rise": paired(before, after).mean, "after": after.total.tolist(),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad), "file": saved(model),
        "seconds": time.process_time() - started,
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_suffix(".tmp")
    staged.write_text(json.dumps(found), "utf-8")
    staged.replace(file)
    return found


def name_of(job: Job) -> str:
    """A name for a run that changes with all that it depends on here."""
    return sha256(json.dumps([job, CASES[job["case"]][:2]], sort_keys=True).encode()).hexdigest()[:16]


def tail(name: str) -> list[Record]:
    """The training records that rates are judged on."""
    tokenizer = load_base("tiny").tokenizer
    return [r for r in read(TASKS / FILES[name][0]) if not encode(r, tokenizer, length=LONGEST)[1]][-HELD:]


def host(kind: Any, model: Any, data: list[Row], steps: int, rate: float, seed: int, name: str, **more: Any) -> Any:
    args = TrainingArguments(
        output_dir="unused", max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=rate, seed=seed,
        weight_decay=0.01, warmup_steps=round(0.07 * steps), save_strategy="no", logging_strategy="no",
        disable_tqdm=True, report_to="none", use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False, **more,
    )  # fmt: skip
    companion = methods.traits(name).companion
    ruled = {"rules": [companion({})] if companion else []} if issubclass(kind, holdfast.Trainer) else {}
    made = kind(model=model, args=args, train_dataset=data, data_collator=partial(collate, pad_id=0), **ruled)
    made.remove_callback(PrinterCallback)
    return made


def saved(model: Any) -> int:
    """Bytes of what a save writes of the weights."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def tuned(pool: ProcessPoolExecutor) -> dict[str, float]:
    """The rate of each method: most held-back answers right, of equals the lowest rate."""
    jobs = [
        {"task": "snips", "case": case, "seed": TUNING, "steps": TUNING_STEPS, "rate": rate, "tests": HELD,
         "tuning": True}
        for case, (_, _, rates) in CASES.items() for rate in rates
    ]  # fmt: skip
    best: dict[str, tuple[float, float]] = {}
    for job, done in zip(jobs, followed(pool, jobs), strict=True):
        key = (done["accuracy"], -job["rate"])
        best[job["case"]] = max(best.get(job["case"], (-1.0, 0.0)), key)
    return {case: -rate for case, (_, rate) in best.items()}


def followed(pool: ProcessPoolExecutor, jobs: list[Job]) -> Iterator[Job]:
    for i, done in enumerate(pool.map(trained, jobs), 1):
        what = f"{done['accuracy']:.1%} learnt, {done['rise']:.2f} nats forgotten, {done['seconds']:.0f} s"
        said = f"{i}/{len(jobs)} {done['task']}, {done['case']}, rate {done['rate']:g}, seed {done['seed']}: {what}"
        print(said, file=sys.stderr, flush=True)
        yield done


def learning(quick: bool, workers: int) -> tuple[list[Job], dict[str, float]]:
    """All runs, summed up by task and method, and the rates."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        rates = {case: CASES[case][2][1] for case in FEW} if quick else tuned(pool)
        size = {"steps": 20, "tests": 100} if quick else {}
        jobs = [
            {"task": name, "case": case, "seed": seed, "steps": STEPS[name], "rate": rate, "tests": TESTS,
             "tuning": False, **size}
            for seed in range(1 if quick else 3) for name in (["snips"] if quick else FILES)
            for case, rate in rates.items()
        ]  # fmt: skip
        found = list(followed(pool, jobs))
    return [summed(found, name, case) for name, case in dict.fromkeys((j["task"], j["case"]) for j in found)], rates


def summed(found: list[Job], name: str, case: str) -> Job:
    mine = [r for r in found if (r["task"], r["case"]) == (name, case)]
    learnt = [r["accuracy"] for r in mine]
    return {
        "task": name, "case": case, "rate": mine[0]["rate"], "seeds": len(mine), "accuracy": fmean(learnt),
        "lowest": min(learnt), "highest": max(learnt), **forgotten(mine), "trainable": mine[0]["trainable"],
        "file": mine[0]["file"],
    }  # fmt: skip


def lines(summary: list[Job]) -> list[list[str]]:
    return [
        [r["task"], r["case"], f"{r['rate']:g}", f"{r['accuracy']:.1%} ({r['lowest']:.1%} to {r['highest']:.1%})",
         f"{r['rise']:.2f} ({r['low']:.2f} to {r['high']:.2f})", f"{r['trainable']:,}", f"{r['file'] / 1024:,.0f} kB"]
        for r in summary
    ]  # fmt: skip


# Step time and memory -----------------------------------------------------------------------------------------------


class Theirs(InTurn, transformers.Trainer):
    """PEFT and the original Trainer."""


class Ours(InTurn, holdfast.Trainer):
    """Our method and our Trainer."""


def random_rows(count: int, length: int, vocabulary: int) -> list[Row]:
    ids = torch.randint(3, vocabulary, (count, length), generator=torch.Generator().manual_seed(0)).tolist()
    return [{"input_ids": row, "labels": list(row)} for row in ids]


def sides(case: str, shape: dict[str, int], length: int, batch: int, steps: int, **more: Any) -> dict[str, Any]:
    """The same model, method and rows, once with PEFT and transformers alone and once with ours."""
    name, settings, _ = CASES[case]
    set_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=length, use_cache=False, **shape)
    bare = LlamaForCausalLM(config)
    ours = methods.apply(name, copy.deepcopy(bare), settings, seed=0, steps=steps)
    theirs: Any = bare
    if isinstance(ours, PeftModel):
        theirs = get_peft_model(bare, copy.deepcopy(ours.peft_config["default"]))
        with torch.no_grad():  # both begin alike, also where ours starts otherwise (P-tuning v2, at a text)
            for there, here in zip(theirs.parameters(), ours.parameters(), strict=True):
                there.copy_(here)
    data = random_rows(batch, 8, VOCABULARY) + random_rows(batch * steps, length, VOCABULARY)
    made = {}
    for who, kind, model in (("theirs", Theirs, theirs), ("ours", Ours, ours)):
        made[who] = host(kind, model, data, steps + 1, 1e-4, 0, name, train_sampling_strategy="sequential", **more)
        made[who].args.per_device_train_batch_size = batch
        made[who].name = who
    return made


def cost(cases: tuple[str, ...], steps: int, weighed: tuple[str, ...]) -> tuple[list[Job], list[str]]:
    """How our steps compare with theirs, by method, and what is too slow or not the same."""
    found, missed = [], []
    for case in cases:
        made = in_turns(sides(case, SMALL, 128, 4, steps))
        plain, mine = made["theirs"].times[1:], made["ours"].times[1:]
        ratio, low, high = ratios(mine, plain)
        own = median(whole / (whole - rules) for whole, rules in zip(mine, made["ours"].ruled[1:], strict=True))
        pairs = zip(made["theirs"].model.parameters(), made["ours"].model.parameters(), strict=True)
        same = all(torch.equal(a, b) for a, b in pairs)
        memory = peak(case, "ours") / peak(case, "theirs") if case in weighed else None
        found.append({"case": case, "step": ratio, "low": low, "high": high, "in the rules": own, "memory": memory,
                      "same": same})  # fmt: skip
        if low > SLOWEST and own > SLOWEST:
            missed.append(f"{case}: a step takes {ratio:.3f}x ({low:.3f} to {high:.3f}), {own:.3f}x in the rules")
        if not same:
            missed.append(f"{case}: other weights than with PEFT and transformers alone")
    return found, missed


def cost_lines(found: list[Job]) -> list[list[str]]:
    return [
        [r["case"], f"{r['step']:.3f}x ({r['low']:.3f} to {r['high']:.3f})", f"{r['in the rules']:.3f}x",
         "" if r["memory"] is None else f"{r['memory']:.2f}x", "yes" if r["same"] else "no"]
        for r in found
    ]  # fmt: skip


def peak(case: str, who: str) -> int:
    """Bytes at the peak of two steps above those before the model was built, in a process of its own."""
    command = [sys.executable, __file__, "--memory", case, "--side", who]
    usual = {k: v for k, v in os.environ.items() if k not in KEEPS}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=usual).stdout.split()[-1])


def grown(case: str, who: str) -> int:
    start = resident("VmRSS")
    in_turns({who: sides(case, SMALL, 128, 4, 1)[who]})
    return resident("VmHWM") - start


def on_gpu() -> Any:
    """The same on a billion random parameters in bfloat16, 1024 tokens: seconds a step and peak memory."""
    if not torch.cuda.is_available():
        return "not measured"
    found = {}
    for case in ("full", "lora, all linear, rank 8", "qlora, 4 bits, mlp, rank 8"):
        for who in ("theirs", "ours"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            made = in_turns({who: sides(case, BILLION, 1024, 8, 8, bf16=True)[who]})
            found[f"{case}, {who}"] = {
                "step": median(made[who].times[1:]), "peak": torch.cuda.max_memory_allocated()
            }  # fmt: skip
    return found


# The whole ----------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--memory", metavar="METHOD", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    hf_logging.set_verbosity_error()
    if options.memory:
        print(grown(options.memory, options.side))
        return 0
    if not KEEPS.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEPS})
    summary: list[Job] = []
    if TASKS.is_dir():
        summary, rates = learning(options.quick, options.workers)
        show("What is learnt, and what of the stories is forgotten", HEAD, lines(summary), words=(0, 1))
    else:
        print(f"SKIPPED: learning needs the data sets in {TASKS}, and they are not there")
    costs, missed = cost(FEW, 12, FEW[1:2]) if options.quick else cost(COSTLY, 40, COSTLY)
    show("What a step costs", COST, cost_lines(costs))
    print(ABOUT)
    if not options.quick and summary:
        fronts = {name: front([r for r in summary if r["task"] == name]) for name in FILES}
        found = {"rates": rates, "summary": summary, "front": fronts, "cost": costs, "gpu": on_gpu()}
        keep("methods.json", steps=STEPS, about=ABOUT, **found)
    print(verdict(missed, "each step takes at most 1.02 times as long as with PEFT and transformers alone"))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
