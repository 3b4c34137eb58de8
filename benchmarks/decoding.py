"""What does it cost to let only items through, and is every result an item?

    python benchmarks/decoding.py --quick     the small model alone                    (under two minutes)
    python benchmarks/decoding.py             the vocabulary of Qwen2.5-0.5B as well   (five minutes)

50 beams over 3,686 items whose IDs are 3 tokens (48, 256 and 256 codes): the semantic IDs of Amazon Industrial and
Scientific where that data set lies beside the project, else random ones of the same shape. Two models: the embedded
base with 560 random rows added to its vocabulary of 512, and 4 random blocks in the shape of Qwen2.5-0.5B (151,936
tokens, width 896). Prompts are random tokens, 40 to 64 of them, 4 prompts in a batch (one for the larger model).

Ways: transformers' own beam search, not constrained, told to write 3 tokens; the same with our processor; the same
with `prefix_allowed_tokens_fn` over a dict of dicts, as it is usually written; and `recommend`, which reads each prompt
once and all its beams behind it (with the check that it makes once per call, and without). All take turns; a ratio is
the median over rounds of the ratio to the unconstrained search of the same round. On the CPU it is processor time, on
one thread unless told, which other programs disturb less than the clock; the ratio by the clock stands beside it. On
CUDA it is the clock. The first round is left out. "Items" is the share of results that are items.

Exits 1 when our processor costs more than 1.10 times, when a result of ours is no item, or when `recommend` ranks
other items first than `generate` with the processor does.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import keep, show, verdict
from shapes import random_qwen
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import logging as hf_logging

from holdfast.base import load_base
from holdfast.data.quiet import quiet
from holdfast.evaluation.metrics.answers import plain_settings
from holdfast.items.decoding import recommend
from holdfast.items.processor import PrefixTreeLogitsProcessor
from holdfast.items.trie import Trie

INDEX = Path(__file__).resolve().parents[2] / "shared/data/rec/amazon_industrial/index"
FILE = INDEX / "Industrial_and_Scientific.index.json"
CODES, ITEMS, BEAMS, GOAL, K = (48, 256, 256), 3686, 50, 1.10, 10
FREE, OURS, THEIRS = "beam search, not constrained", "with our processor", "with prefix_allowed_tokens_fn"
SEARCH, CHECKED = "recommend, without the check", "recommend"
HEAD = ("model", "way", "seconds", "ratio", "by the clock", "goal", "items", "same items")


def index(first: int) -> dict[int, list[int]]:
    """The items' IDs, their tokens numbered from `first` on in the order of their names."""
    if not FILE.is_file():
        borders = list(accumulate(CODES, initial=first))
        luck = random.Random(0)
        return {i: [luck.randrange(a, b) for a, b in pairwise(borders)] for i in range(ITEMS)}
    names = json.loads(FILE.read_text("utf-8"))
    numbers = {name: first + i for i, name in enumerate(sorted({name for path in names.values() for name in path}))}
    return {int(item): [numbers[name] for name in path] for item, path in names.items()}


def small(device: str) -> tuple[Any, int]:
    """The embedded base with random rows for the codes, and the first of these."""
    model = load_base("tiny").model
    first = model.get_input_embeddings().num_embeddings
    torch.manual_seed(0)
    model.resize_token_embeddings(first + sum(CODES), mean_resizing=False)
    return model.to(device), first


def large(device: str) -> tuple[Any, int]:
    """Random weights in the shape of Qwen2.5-0.5B, 4 blocks of 24; the codes are its last tokens."""
    model = random_qwen(4, device)
    return model.eval(), model.config.vocab_size - sum(CODES)


MODELS: dict[str, tuple[Callable[[str], tuple[Any, int]], int, int]] = {
    "embedded base + 560": (small, 4, 15),
    "Qwen2.5-0.5B shape": (large, 1, 7),
}
"""How each model is built, how many prompts it is asked at once, and in how many rounds."""


def nested(ids: dict[int, list[int]]) -> dict[int, Any]:
    """The trie as a dict of dicts."""
    root: dict[int, Any] = {}
    for path in ids.values():
        node = root
        for token in path:
            node = node.setdefault(token, {})
    return root


def following(root: dict[int, Any], begin: int, pad: int) -> Callable[[int, Tensor], list[int]]:
    """What transformers asks of each beam: the tokens that may follow; a beam that is no item's path pads."""

    def allowed(_: int, sentence: Tensor) -> list[int]:
        node = root
        for token in sentence[begin:].tolist():
            node = node.get(token, {})
        return list(node) or [pad]

    return allowed


class Question:
    """Prompts, items and a model, and the ways to ask; each gives for each prompt the paths that came out."""

    def __init__(self, build: Callable[[str], tuple[Any, int]], prompts: int, device: str):
        self.model, first = build(device)
        self.ids = index(first)
        self.trie = Trie(self.ids)
        self.known = {tuple(path) for path in self.ids.values()}
        self.tokenizer = load_base("tiny").tokenizer
        luck = torch.Generator().manual_seed(0)
        lengths = torch.linspace(40, 64, prompts).int().tolist()
        self.prompts = [torch.randint(3, 500, (n,), generator=luck).tolist() for n in lengths]
        gaps = [max(lengths) - n for n in lengths]
        rows = [[0] * gap + prompt for gap, prompt in zip(gaps, self.prompts, strict=True)]
        self.inputs = torch.tensor(rows, device=device)
        self.mask = torch.tensor([[0] * gap + [1] * n for gap, n in zip(gaps, lengths, strict=True)], device=device)
        begin = self.inputs.shape[1]
        processor = PrefixTreeLogitsProcessor(self.trie, begin, end=None, pad=0)
        allowed = following(nested(self.ids), begin, 0)
        self.ways: dict[str, Callable[[], list[list[tuple[int, ...]]]]] = {
            FREE: self._generated,
            OURS: partial(self._generated, logits_processor=[processor]),
            THEIRS: partial(self._generated, prefix_allowed_tokens_fn=allowed),
            SEARCH: partial(self._recommended, "search"),
            CHECKED: partial(self._recommended, "auto"),
        }

    def _generated(self, **more: Any) -> list[list[tuple[int, ...]]]:
        config = GenerationConfig(
            do_sample=False, num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=self.trie.depth,
            length_penalty=0.0, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        with quiet(self.model), plain_settings(self.model, config):
            made = self.model.generate(self.inputs, attention_mask=self.mask, generation_config=config, **more)
        paths = [tuple(path) for path in made[:, self.inputs.shape[1] :].tolist()]
        return [paths[i : i + BEAMS] for i in range(0, len(paths), BEAMS)]

    def _recommended(self, way: Any) -> list[list[tuple[int, ...]]]:
        found = recommend(self.model, self.tokenizer, self.prompts, self.trie, k=BEAMS, beams=BEAMS, way=way)
        return [[tuple(self.ids[item]) for item, _ in items] for items in found]


def measured(question: Question, rounds: int, device: str) -> dict[str, Any]:
    """Of each way seconds and processor seconds by round, the share of items, and whether it has generate's first."""
    records: dict[str, Any] = {way: {"seconds": [], "processor_seconds": []} for way in question.ways}
    for turn in range(rounds + 1):
        for way, ask in question.ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            found = ask()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                records[way]["seconds"].append(round(time.perf_counter() - wall, 5))
                records[way]["processor_seconds"].append(round(time.process_time() - processor, 5))
                continue
            every = [path for paths in found for path in paths]
            records[way]["items"] = sum(path in question.known for path in every) / len(every)
            records[way]["first"] = [list(dict.fromkeys(paths))[:K] for paths in found]
    return summed(records, device)


def summed(records: dict[str, Any], device: str) -> dict[str, Any]:
    """The same with ratios to the unconstrained search."""
    truth = records[OURS]["first"]
    for record in records.values():
        clock, own = (
            median(a / b for a, b in zip(record[kind], records[FREE][kind], strict=True))
            for kind in ("seconds", "processor_seconds")
        )
        record |= {"ratio": clock if device == "cuda" else own, "by_the_clock": clock}
    for record in records.values():
        record["same_items"] = record.pop("first") == truth
    return records


def lines(models: dict[str, Any]) -> list[Sequence[str]]:
    return [
        (
            name, way, f"{median(r['seconds']):.3f}", f"{r['ratio']:.2f}", f"{r['by_the_clock']:.2f}",
            f"{GOAL:.2f}" if way == OURS else "", f"{r['items']:.1%}", "yes" if r["same_items"] else "no",
        )
        for name, records in models.items()
        for way, r in records.items()
    ]  # fmt: skip


def missed(models: dict[str, Any]) -> list[str]:
    """What did not reach its goal."""
    found = []
    for name, records in models.items():
        if (ratio := records[OURS]["ratio"]) > GOAL:
            found.append(f"{name}: our processor costs {ratio:.2f} times (at most {GOAL:.2f})")
        found += [f"{name}, {way}: results that are no items" for way in (OURS, SEARCH) if records[way]["items"] < 1]
        if not records[SEARCH]["same_items"]:
            found.append(f"{name}: recommend ranks other items first than generate does")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under two minutes on two cores")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch uses")
    parser.add_argument("--output", type=Path, default="decoding.json", help="where the figures are written")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    start, models = time.perf_counter(), dict[str, Any]()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, (build, prompts, rounds) in list(MODELS.items())[: 1 if arguments.quick else None]:
        models[name] = measured(Question(build, prompts, device), rounds, device)
    show(f"{BEAMS} beams, {ITEMS:,} items, {device}", HEAD, lines(models), words=(0, 1))
    misses = missed(models)
    ours, fast = (max(r[way]["ratio"] for r in models.values()) for way in (OURS, SEARCH))
    line = verdict(
        misses, f"our processor costs {ours:.2f} times (at most {GOAL:.2f}), `recommend` {fast:.2f}; all items"
    )
    if not arguments.quick:
        keep(
            arguments.output, verdict=line, seconds=round(time.perf_counter() - start, 1), threads=arguments.threads,
            device=device, index="Amazon Industrial" if FILE.is_file() else "random", models=models,
        )  # fmt: skip
    print(line)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
