"""Is evaluation as fast as it can be, and the same? Beside lm-evaluation-harness, on the same items and models.

    python benchmarks/evaluation.py --quick      fewer items, 2 to 3 repetitions         (under five minutes)
    python benchmarks/evaluation.py              the whole suites, 5 repetitions          (half an hour)

Four kinds of tasks: choices after short prompts (facts-en), choices after long contexts (notes of context-en, cut to
about 200 tokens), greedy generation up to a line end (the prompts of facts-en), and plain perplexity of stories
(loglikelihood_rolling). Two models: the embedded one, and a random Llama of 28 million parameters with the same
vocabulary. The harness is called as its tasks call it (HFLM.loglikelihood, generate_until, loglikelihood_rolling), with
tokenisation on both sides, and in its best batch of 1, 16 and 64, chosen on the same items before. Repetitions take
turns; figures are medians of processor time and wall time. What is counted are items, tokens of theirs (those that the
harness sends through the model), and those that ours sends.

Answers are compared item by item: the chosen choice, the text, and log-likelihoods. Where the two best choices are
nearer to each other than rounding, either is the same answer. Exits 1 when answers differ, when choices are not scored
at least twice as fast over both kinds, or when anything is slower.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from monitor_share import HEAD as MONITORED
from monitor_share import line as monitored
from monitor_share import missed as faults
from monitor_share import shares
from record import keep, show, verdict
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, set_seed
from transformers.utils import logging as transformers_logging

from holdfast.base import Base, load_base
from holdfast.data.formats import Completion, Text
from holdfast.data.rows import tokens
from holdfast.evaluation.metrics.answers import answers
from holdfast.evaluation.metrics.branching import branch_losses, trees
from holdfast.evaluation.metrics.likelihood import loss
from holdfast.evaluation.metrics.registry import BATCH_TOKENS, room
from holdfast.evaluation.suites import load_suite

FASTER, SLOWER = 2.0, 1.0
"""Goals: how much faster choices are scored over both kinds, and what nothing may fall below."""
BATCHES = (1, 16, 64)
FEW = 32
"""Items with short prompts that the larger model answers in a quick run; of other kinds a part."""
WRITTEN, CONTEXT, STORY = 24, 200, 480
"""Tokens that are written, and of a long context and of a story."""
NEAR = 1e-3
"""Nats between the best two choices below which either counts as the same answer."""
SHAPE = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 9, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
HEAD = (
    "model", "task", "items", "tokens of an item, theirs", "ours", "items a second, theirs", "ours", "tokens a second",
    "faster (processor)", "faster (wall)", "answers that differ",
)  # fmt: skip
ABOUT = (
    "The same items, models and answers, beside lm-evaluation-harness 0.4.13 in its best batch of 1, 16 and 64; "
    "tokenisation included. Repetitions take turns; medians. Tokens a second are the harness's tokens over our time, "
    f"so that both did the same work. Goals: {FASTER:.0f}x in scoring choices over both kinds, "
    "never slower elsewhere. "
    "The machine was busy with other work; processor times of repetitions in turns are still fair, wall times less so."
)

Answers = list[Any]


@dataclass(frozen=True)
class Kind:
    """One kind of task: how each side does it, when answers are alike, and how many items a quick run can afford."""

    name: str
    items: Sequence[Any]
    ours: Callable[[Base, Sequence[Any]], Answers]
    theirs: Callable[[HFLM, Sequence[Any]], Answers]
    alike: Callable[[Any, Any], bool]
    few: int
    choices: bool = False
    prompted: bool = True


def scored(base: Base, tasks: Sequence[Completion]) -> Answers:
    made = trees(tasks, base.tokenizer, room(base.model))
    return [-found for found in branch_losses(base.model, made, batch_tokens=BATCH_TOKENS)]


def scored_there(harness: HFLM, tasks: Sequence[Completion]) -> Answers:
    asked = [Instance("loglikelihood", {}, (task.prompt, choice), 0) for task in tasks for choice in task.choices]
    found = np.array([pair[0] for pair in harness.loglikelihood(asked, disable_tqdm=True)])
    return np.split(found, np.cumsum([len(task.choices) for task in tasks])[:-1])


def same_choice(ours: np.ndarray, theirs: np.ndarray) -> bool:
    near = theirs.max() - theirs[int(ours.argmax())] <= NEAR
    return bool(near and np.allclose(ours, theirs, rtol=1e-4, atol=NEAR))


def wrote(base: Base, tasks: Sequence[Completion]) -> Answers:
    return answers(base.model, base.tokenizer, tasks, max_new_tokens=WRITTEN, stop=("\n",))


def wrote_there(harness: HFLM, tasks: Sequence[Completion]) -> Answers:
    asked = {"until": ["\n"], "max_gen_toks": WRITTEN, "do_sample": False}
    requests = [Instance("generate_until", {}, (task.prompt, dict(asked)), 0) for task in tasks]
    return harness.generate_until(requests, disable_tqdm=True)


def surprised(base: Base, texts: Sequence[Text]) -> Answers:
    return [-float(nats) for nats in loss(base.model, base.tokenizer, texts).stats[:, 0]]


def surprised_there(harness: HFLM, texts: Sequence[Text]) -> Answers:
    requests = [Instance("loglikelihood_rolling", {}, (text.text,), 0) for text in texts]
    with redirect_stderr(io.StringIO()):  # a bar for each batch, whatever it is asked
        return harness.loglikelihood_rolling(requests, disable_tqdm=True)


def alone(harness: HFLM) -> HFLM:
    """The same without a BOS of the tokenizer's: for running text the harness puts one there itself."""
    harness.add_bos_token = False
    return harness


def near(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= 1e-4 * abs(theirs)


def kinds(base: Base, quick: bool) -> list[Kind]:
    """The four kinds; contexts and stories are cut so that both sides read every token of them."""

    def last(text: str, most: int) -> str:
        return str(base.tokenizer.decode(tokens(base.tokenizer, text)[-most:]))

    def first(text: str, most: int) -> str:
        return str(base.tokenizer.decode(tokens(base.tokenizer, text)[:most]))

    some = 40 if quick else None
    facts = [r for r in load_suite("facts-en").records if isinstance(r, Completion)]
    facts = facts[: 2 * some if some else None]
    notes = [replace(r, prompt=last(r.prompt, CONTEXT).strip()) for r in load_suite("context-en").records[:some]]
    stories = [Text(first(r.text, STORY)) for r in load_suite("fluency-en").records[: some or 400]]
    return [
        Kind("choices, short prompts", facts, scored, scored_there, same_choice, FEW, True),
        Kind("choices, long contexts", notes, scored, scored_there, same_choice, FEW // 4, True),
        Kind("generation", facts, wrote, wrote_there, str.__eq__, FEW // 2),
        Kind("perplexity", stories, surprised, surprised_there, near, FEW, prompted=False),
    ]


# Measuring ----------------------------------------------------------------------------------------------------------


def counted(model: nn.Module, call: Callable[[], Answers]) -> tuple[Answers, int]:
    """The answers of a call, and the padded tokens that pass through the model for them."""
    seen: list[int] = []

    def note(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        ids = given["input_ids"] if given.get("input_ids") is not None else args[0]
        seen.append(ids.numel())

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    answers = call()
    hook.remove()
    return answers, sum(seen)


def timed(call: Callable[[], Answers]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def measured(base: Base, kind: Kind, repetitions: int) -> dict[str, Any]:
    """Both sides in turns, the harness in its best batch."""
    options = {"max_length": room(base.model)}
    sides = {n: HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=n, **options) for n in BATCHES}
    if not kind.prompted:
        sides = {n: alone(side) for n, side in sides.items()}
    tried = kind.items[: max(4, len(kind.items) // 3)]
    best = min(BATCHES, key=lambda n: timed(lambda: kind.theirs(sides[n], tried))[0])

    def ours() -> Answers:
        return kind.ours(base, kind.items)

    def theirs() -> Answers:
        return kind.theirs(sides[best], kind.items)

    (one, our_tokens), (other, their_tokens) = (counted(base.model, call) for call in (ours, theirs))
    differ = [i for i, pair in enumerate(zip(one, other, strict=True)) if not kind.alike(*pair)]
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for turn in range(repetitions):
        calls = [("ours", ours), ("theirs", theirs)]
        for name, call in calls if turn % 2 else calls[::-1]:
            times[name].append(timed(call))
    ratios = [[t[i] / o[i] for o, t in zip(times["ours"], times["theirs"], strict=True)] for i in (0, 1)]
    return {
        "model": base.name, "task": kind.name, "choices": kind.choices, "items": len(kind.items), "batch": best,
        "tokens": {"ours": our_tokens, "theirs": their_tokens},
        "seconds": {name: [median(pair[i] for pair in found) for i in (0, 1)] for name, found in times.items()},
        "faster": [median(found) for found in ratios],
        "differ": differ,
    }  # fmt: skip


def line(found: dict[str, Any]) -> list[str]:
    n, seconds, sent = found["items"], found["seconds"], found["tokens"]
    return [
        found["model"], found["task"], f"{n}", f"{sent['theirs'] / n:.0f}", f"{sent['ours'] / n:.0f}",
        f"{n / seconds['theirs'][0]:,.0f}", f"{n / seconds['ours'][0]:,.0f}",
        f"{sent['theirs'] / seconds['ours'][0]:,.0f}",
        f"{found['faster'][0]:.2f}x", f"{found['faster'][1]:.2f}x", f"{len(found['differ'])}",
    ]  # fmt: skip


def judged(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What misses its goal."""
    missed = []
    for model in dict.fromkeys(run["model"] for run in runs):
        own = [run for run in runs if run["model"] == model]
        theirs, ours = (sum(run["seconds"][side][0] for run in own if run["choices"]) for side in ("theirs", "ours"))
        if theirs / ours < FASTER:
            missed.append(f"{model} scores choices {theirs / ours:.2f} times as fast, the goal is {FASTER:.0f}")
    for run in runs:
        if run["faster"][0] < SLOWER:
            missed.append(f"{run['model']}, {run['task']}: {run['faster'][0]:.2f} times as fast")
        if run["differ"]:
            missed.append(f"{run['model']}, {run['task']}: answers differ on {len(run['differ'])} items")
    return missed


def random_llama(base: Base) -> Base:
    """A random model with the tokenizer of the embedded one."""
    set_seed(0)
    config = LlamaConfig(vocab_size=len(base.tokenizer), bos_token_id=1, eos_token_id=1, **SHAPE)
    return Base(LlamaForCausalLM(config).eval(), base.tokenizer, "random Llama, 28M", "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tiny = load_base("tiny")
    runs = []
    for base in (tiny, random_llama(tiny)):
        for kind in kinds(tiny, quick):
            small = quick and base is not tiny
            items = kind.items[: kind.few] if small else kind.items
            runs.append(measured(base, replace(kind, items=items), 2 if small else 3 if quick else 5))
            print(*line(runs[-1]), sep=" | ", flush=True)
    lines, missed = [line(run) for run in runs], judged(runs)
    show("Evaluation beside lm-evaluation-harness", HEAD, lines, words=(0, 1))
    watched = [shares(tiny.name, tiny, 64, 1 if quick else 3)]
    show("What the monitor takes of a training", MONITORED, list(map(monitored, watched)))
    missed += [fault for found in watched for fault in faults(found)]
    said = verdict(missed, "choices are scored at least twice as fast, nothing is slower, and all answers are the same")
    keep("evaluation.json", about=ABOUT, table={"head": HEAD, "rows": lines}, runs=runs, monitor=watched, verdict=said)
    print(said)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
