"""A model learns to recommend items by new words: how well, and what does it forget of language?

    python benchmarks/semantic_ids.py --quick     three ways, one seed, 60 steps                   (five minutes)
    python benchmarks/semantic_ids.py             all ways, three seeds, 400 steps, rates tuned    (an hour)

The embedded base gets a token for each code of the items' semantic IDs, and learns which item follows a history: the
300 items that were chosen most often in Amazon's "Industrial and Scientific", with IDs from their titles (TF-IDF,
residual k-means); where these data are absent, a small catalogue made up by rule. All ways take equal steps. Rates
are chosen alike: of three, the one with the best NDCG@10 on validation cases, with a seed of its own; ways that add a
remedy take the rate of the way that they add it to; beside other weights, new rows learn ten times as fast. Learnt is
HR@10 and NDCG@10 on the test cases by constrained beam search; forgotten the rise of the loss on held-out stories (of
the kind that is replayed) and on Shakespeare (which is not), over all tokens and over the old ones alone. Finished runs
are kept in runs/semantic_ids. Exits 1 where freezing all but new rows moved a logit of an old token, or a governed run
broke its budget.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from record import keep, show, verdict
from transformers.utils import logging as hf_logging

from holdfast.items.building import identify
from holdfast.items.catalogue import Catalogue
from holdfast.items.embedding import tfidf
from holdfast.items.made_up import made_up
from holdfast.items.reading import load as load_items
from holdfast.items.subset import subset
from holdfast.items.writing import write
from holdfast.recipe import load, run
from holdfast.recipe.ranking import MODEL, evaluate_items
from holdfast.recipe.recommender import open_recommender

Job = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "rec" / "amazon_industrial"
FOLDER = ROOT / "runs" / "semantic_ids"
ITEMS, CODES, STEPS, BATCH, LENGTH, BEAMS = 300, 16, 400, 16, 80, 20
TUNING, JUDGED = 100, 400
"""The seed of the runs that choose a rate, and the validation cases that they are judged on."""
STORIES, OTHER, BUDGET = "tiny/stories", "tiny/shakespeare", 0.02
REPLAY = {"replay": {"source": STORIES, "share": 0.25}}
FULL, ROWS, LORA = (3e-4, 1e-3, 3e-3), (2e-2, 5e-2, 1e-1), (1e-3, 3e-3, 1e-2)
WAYS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], bool, str | tuple[float, ...]]] = {
    "full SFT": ({"name": "full"}, [], False, FULL),
    "full SFT, EWC": ({"name": "full"}, [{"ewc": {"source": STORIES}}], False, "full SFT"),
    "full SFT, replay": ({"name": "full"}, [REPLAY], False, "full SFT"),
    "freeze + new rows": ({"name": "rows"}, [], False, ROWS),
    "freeze + new rows, replay": ({"name": "rows"}, [REPLAY], False, "freeze + new rows"),
    "freeze + new rows, governed": ({"name": "rows"}, [REPLAY], True, "freeze + new rows"),
    "new rows + LoRA": ({"name": "lora"}, [], False, LORA),
    "new rows + LoRA, replay": ({"name": "lora"}, [REPLAY], False, "new rows + LoRA"),
    "new rows + LoRA, governed": ({"name": "lora"}, [REPLAY, {"distill": {"strength": 4.0}}], True, "new rows + LoRA"),
}
"""Method, rules, whether a budget on stories is kept, and the rates to choose from or the way whose rate is taken."""
FEW = ("full SFT", "freeze + new rows", "freeze + new rows, replay")
HEAD = ("way", "rate", "HR@10 (seeds)", "NDCG@10", "stories, nats", "old tokens alone", "Shakespeare, nats", "trains")


# Data ---------------------------------------------------------------------------------------------------------------


def catalogue() -> Catalogue:
    """The items with IDs of ours, and where they are from."""
    if not DATA.is_dir():
        return made_up()
    shop = subset(load_items(DATA), ITEMS)
    texts = [" ".join([item.title, *item.description]) for item in shop.items.values()]
    ids = identify([*shop.items], tfidf(texts, dim=64), {"residual": {"levels": 3, "codes": CODES}})
    return shop.with_tokens(ids.tokens)


@lru_cache
def written() -> tuple[str, str]:
    """The folder of the catalogue, written once, and a name of what is in it."""
    shop = catalogue()
    mark = sha256(json.dumps([shop.source.rsplit("/")[-1], dict(shop.tokens)], sort_keys=True).encode()).hexdigest()[
        :12
    ]
    folder = FOLDER / f"items-{mark}"
    if not folder.is_dir():
        staged = folder.with_name(f".{folder.name}-{os.getpid()}")
        write(shop, staged)
        staged.rename(folder)
    return str(folder), mark


# Runs ---------------------------------------------------------------------------------------------------------------


def trained(job: Job) -> Job:
    """One run, measured; read from its file where it is there."""
    file = FOLDER / f"{name_of(job)}.json"
    if file.is_file():
        return json.loads(file.read_text("utf-8"))  # type: ignore[no-any-return]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    method, rules, governed, _ = WAYS[job["way"]]
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = run(load(recipe(job, method, rules, governed, Path(folder) / "run")))
        shown = evaluate_items(
            open_recommender(result.folder), split=job["split"], beams=BEAMS, ks=(10,), cases=job["cases"], seed=TUNING,
            language=job["split"] == "test",
        )  # fmt: skip
        certificate = json.loads((result.folder / "certificate.json").read_text("utf-8"))
        shutil.rmtree(folder, ignore_errors=True)
    found = {**job, **figures(shown), "verdict": result.verdict, "seconds": time.process_time() - started,
             "trains": trains(certificate, method)}  # fmt: skip
    staged = file.with_suffix(".tmp")
    staged.write_text(json.dumps(found), "utf-8")
    staged.replace(file)
    return found


def recipe(job: Job, method: dict[str, Any], rules: list[Any], governed: bool, output: Path) -> dict[str, Any]:
    return {
        "base": "tiny",
        "vocabulary": {"items": job["items"]},
        "method": method,
        "learn": {"data": job["items"], "length": LENGTH, "tasks": {"history": 1}},
        "keep": {"probe": "none", "suites": [STORIES, OTHER], "rows": 1024,
                 **({"budget": {STORIES: BUDGET}} if governed else {})},
        "train": {"max_steps": job["steps"], "per_device_train_batch_size": BATCH, "learning_rate": job["rate"],
                  "weight_decay": 0.01, "warmup_steps": 0.05, "use_cpu": not torch.cuda.is_available()},
        "rules": rules,
        "monitor": {"every": job["steps"], "rows": 8},
        "samples": {"tokens": 1},
        "seed": job["seed"],
        "output": str(output),
    }  # fmt: skip


def figures(shown: dict[str, Any]) -> dict[str, Any]:
    """What a table says of a run, and the baselines on the same cases."""
    scores = {name: {m: r["by_item"][m]["mean"] for m in ("hr@10", "ndcg@10")} for name, r in shown["rankings"].items()}
    found: dict[str, Any] = {**scores.pop(MODEL), "baselines": scores, "valid": shown["rankings"][MODEL]["valid"]}
    if shown["language"]:
        found["kept"] = {
            entry["text"]: {
                "rise": entry["certificate"]["rise"], "old": entry["old_tokens"]["rise"],
                "logit": entry["old_tokens"]["logit"],
            }
            for entry in shown["language"]["texts"]
        }  # fmt: skip
    return found


def trains(certificate: dict[str, Any], method: dict[str, Any]) -> str:
    return {"full": "everything", "rows": "new rows", "lora": "new rows, LoRA"}[method["name"]]


def name_of(job: Job) -> str:
    """A name for a run that changes with all that it depends on here."""
    told = [{k: v for k, v in job.items() if k != "items"}, WAYS[job["way"]][:3], BATCH, LENGTH, BEAMS]
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def job(way: str, seed: int, rate: float, steps: int, split: str = "test", cases: int | None = None) -> Job:
    folder, mark = written()
    return {"way": way, "seed": seed, "rate": rate, "steps": steps, "split": split, "cases": cases, "items": folder,
            "catalogue": mark}  # fmt: skip


def followed(pool: ProcessPoolExecutor, jobs: list[Job]) -> Iterator[Job]:
    for i, done in enumerate(pool.map(trained, jobs), 1):
        kept = f", stories {done['kept'][STORIES]['rise']:+.3f} nats" if "kept" in done else ""
        what = f"HR@10 {done['hr@10']:.3f}{kept}, {done['seconds']:.0f} s"
        said = f"{i}/{len(jobs)} {done['way']}, rate {done['rate']:g}, seed {done['seed']}: {what}"
        print(said, file=sys.stderr, flush=True)
        yield done


def tuned(pool: ProcessPoolExecutor, steps: int) -> dict[str, float]:
    """The rate of each way: best NDCG@10 on validation cases, of equals the lowest rate."""
    choices = {way: told[3] for way, told in WAYS.items()}
    jobs = [job(way, TUNING, rate, steps, "valid", JUDGED)
            for way, rates in choices.items() if not isinstance(rates, str) for rate in rates]  # fmt: skip
    best: dict[str, tuple[float, float]] = {}
    for asked, done in zip(jobs, followed(pool, jobs), strict=True):
        best[asked["way"]] = max(best.get(asked["way"], (-1.0, 0.0)), (done["ndcg@10"], -asked["rate"]))
    own = {way: -rate for way, (_, rate) in best.items()}
    return {way: own[like] if isinstance(like, str) else own[way] for way, like in choices.items()}


def summed(runs: list[Job]) -> Job:
    """One way, over its seeds: means, and the lowest and highest of each figure."""

    def over(pick: Any) -> list[float]:
        values = [pick(one) for one in runs]
        return [fmean(values), min(values), max(values)]

    return {
        "way": runs[0]["way"], "rate": runs[0]["rate"], "seeds": len(runs), "trains": runs[0]["trains"],
        "hr@10": over(lambda r: r["hr@10"]), "ndcg@10": over(lambda r: r["ndcg@10"]),
        "kept": {text: {key: over(lambda r, t=text, k=key: r["kept"][t][k]) for key in ("rise", "old", "logit")}
                 for text in (STORIES, OTHER)},
        "valid": min(r["valid"] for r in runs), "verdicts": [r["verdict"] for r in runs],
    }  # fmt: skip


def lines(summary: list[Job], baselines: dict[str, dict[str, float]]) -> list[list[str]]:
    def told(values: list[float], form: str) -> str:
        mean, low, high = (format(value, form) for value in values)
        return mean if low == high else f"{mean} ({low} to {high})"

    rows = [
        [r["way"], f"{r['rate']:g}", told(r["hr@10"], ".3f"), told(r["ndcg@10"], ".3f"),
         told(r["kept"][STORIES]["rise"], "+.3f"), told(r["kept"][STORIES]["old"], "+.3f"),
         told(r["kept"][OTHER]["rise"], "+.3f"), r["trains"]]
        for r in summary
    ]  # fmt: skip
    known = sorted(baselines.items(), key=lambda pair: -pair[1]["hr@10"])
    return [*rows, *([name, "", f"{s['hr@10']:.3f}", f"{s['ndcg@10']:.3f}", "", "", "", ""] for name, s in known)]


def misses(summary: list[Job]) -> list[str]:
    missed = []
    for r in summary:
        logit = max(kept["logit"][2] for kept in r["kept"].values())
        if r["way"].startswith("freeze") and logit != 0.0:
            missed.append(f"{r['way']}: a logit of an old token moved by {logit:.2g}")
        if "broken" in r["verdicts"]:
            missed.append(f"{r['way']}: {r['verdicts'].count('broken')} of {r['seeds']} broke their budget")
        if r["valid"] != 1.0:
            missed.append(f"{r['way']}: only {r['valid']:.1%} of what it recommends are items")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not DATA.is_dir():
        print(f"The data in {DATA} are absent: a catalogue made up by rule stands in for them")
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        if options.quick:
            jobs = [job(way, 0, (WAYS[way][3] if not isinstance(WAYS[way][3], str) else ROWS)[1], 60, cases=300)  # type: ignore[index]
                    for way in FEW]  # fmt: skip
        else:
            rates = tuned(pool, STEPS)
            jobs = [job(way, seed, rate, STEPS) for seed in range(3) for way, rate in rates.items()]
        found = list(followed(pool, jobs))
    summary = [summed([r for r in found if r["way"] == way]) for way in dict.fromkeys(r["way"] for r in found)]
    baselines = found[0]["baselines"]
    show(f"Learning to recommend, {jobs[0]['steps']} steps, and what is forgotten", HEAD, lines(summary, baselines))
    if not options.quick:
        shop = catalogue()
        about = {"source": shop.source.rsplit("/", 1)[-1], "items": len(shop.items), "tokens": len(shop.vocabulary),
                 **{split: len(rows) for split, rows in shop.splits.items()}}  # fmt: skip
        keep("semantic_ids.json", steps=STEPS, items=about, summary=summary, baselines=baselines, gpu="not measured")
    missed = misses(summary)
    print(verdict(missed, "frozen models kept every logit of old tokens, governed ones their budget, all are items"))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
