"""What does it cost to train new rows of a vocabulary, and do the old ones stand still?

    python benchmarks/rows.py --quick     both vocabularies, tied and untied, 4 steps each           (five minutes)
    python benchmarks/rows.py             the same, 12 steps each                                    (ten minutes)

Three ways of training 560 new rows of a random model and nothing else, which take turns step by step with AdamW and
weight decay 0.1: (a) the whole matrix in the optimiser, its gradient masked; (b) PEFT's trainable tokens; (c) ours.
The matrices are Qwen2.5-0.5B's (151,936 x 896, of which 151,665 are tokens) and one of 32,000 x 2,048, each below four
layers. With an untied head all three train its rows as well. Peak memory is that of a process of its own, above that
before the model was built; optimiser and gradient bytes are those of the tensors. Exits 1 where (c) keeps less than 100
times fewer of them than (a), where a step takes more than 0.8 times that of (a) or (b), where an old row moved, or
where (c) and (b) learn other rows (by more than a fiftieth of the way that they went: AdamW turns rounding into steps
where a gradient is next to nothing). The smaller matrix has only 58 times as many rows as are new: 58 is all there is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from overhead import KEEPS, ratios, resident
from peft import TrainableTokensConfig, get_peft_model
from record import keep, show, verdict
from shapes import qwen
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2ForCausalLM

from holdfast.adapters.method import methods
from holdfast.vocabulary import lay, new_rows

NEW, ROWS, LENGTH = 560, 2, 64
WAYS = {"mask": "(a) masked gradient", "peft": "(b) PEFT trainable tokens", "ours": "(c) ours"}
RATE = 1e-3
LEAST_BYTES, MOST_TIME, SAME = 100, 0.8, 0.02


@dataclass(frozen=True)
class Case:
    """A model's shape, how many of its rows are tokens, and whether its head is the embedding."""

    name: str
    kind: Any
    config: Any
    tokens: int


def cases() -> Iterator[Case]:
    for form, tied in product(("151,936 x 896", "32,000 x 2,048"), (True, False)):
        shared = {"max_position_embeddings": LENGTH, "tie_word_embeddings": tied, "use_cache": False}
        name = f"{form}, {'tied' if tied else 'untied'}"
        if form.startswith("151"):
            yield Case(name, Qwen2ForCausalLM, qwen(4, **shared), 151_665)
        else:
            llama = LlamaConfig(
                vocab_size=32_000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=4,
                num_attention_heads=32, num_key_value_heads=4, **shared,
            )  # fmt: skip
            yield Case(name, LlamaForCausalLM, llama, 32_000)


class Way:
    """One way of training the new rows of a case, all three from the same values and on the same rows of tokens."""

    def __init__(self, case: Case, name: str):
        torch.manual_seed(0)
        self.case, self.name, self.times = case, name, list[float]()
        model = case.kind(case.config)
        drawn = torch.Generator().manual_seed(1)
        fresh = [0.02 * torch.randn(NEW, case.config.hidden_size, generator=drawn) for _ in range(2)]
        self.model, self.start = getattr(self, name)(model, fresh), fresh[0]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.trained = sum(p.numel() for p in trained)
        self.optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.1)
        self.old = [side.detach()[: case.tokens].clone() for side in self.matrices()]

    def mask(self, model: Any, fresh: list[Tensor]) -> Any:
        self.resized(model, fresh)
        for side in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            side.requires_grad_(True).register_hook(lambda grad: grad.index_fill_(0, self.known, 0.0))
        return model

    def peft(self, model: Any, fresh: list[Tensor]) -> Any:
        self.resized(model, fresh)
        ids = list(range(self.case.tokens, self.case.tokens + NEW))
        names = ["embed_tokens"] if model.config.tie_word_embeddings else ["embed_tokens", "lm_head"]
        return get_peft_model(model, TrainableTokensConfig(token_indices=ids, target_modules=names))

    def ours(self, model: Any, fresh: list[Tensor]) -> Any:
        lay(model, self.case.tokens, fresh[0], None if model.config.tie_word_embeddings else fresh[1])
        return methods.apply("rows", model, {})

    @torch.no_grad()
    def resized(self, model: Any, fresh: list[Tensor]) -> None:
        """Rows up to the last new id; the matrix is padded beyond its tokens, and never made smaller."""
        model.resize_token_embeddings(max(self.case.tokens + NEW, model.config.vocab_size), mean_resizing=False)
        for side, rows in zip((model.get_input_embeddings(), model.get_output_embeddings()), fresh, strict=True):
            if side is model.get_input_embeddings() or not model.config.tie_word_embeddings:
                side.weight[self.case.tokens : self.case.tokens + NEW] = rows
        model.requires_grad_(False)
        self.known = torch.arange(self.case.tokens)

    def step(self, number: int) -> None:
        drawn = torch.Generator().manual_seed(number)
        ids = torch.randint(3, self.case.tokens, (ROWS, LENGTH), generator=drawn)
        ids[:, ::2] = torch.randint(self.case.tokens, self.case.tokens + NEW, (ROWS, LENGTH // 2), generator=drawn)
        start = time.perf_counter()
        self.model(input_ids=ids, labels=ids).loss.backward()
        self.kept = self.bytes()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.times.append(time.perf_counter() - start)

    def bytes(self) -> int:
        """Gradients, and the optimiser's state after the first step."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        state = [v for s in self.optimizer.state.values() for v in s.values() if v.ndim]
        return sum(t.numel() * t.element_size() for t in [*grads, *state])

    def matrices(self) -> list[Tensor]:
        inner = self.model.get_base_model() if self.name == "peft" else self.model
        sides = [inner.get_input_embeddings(), inner.get_output_embeddings()]
        found = [getattr(side, "base_layer", side).weight for side in sides]
        return found[:1] if found[0] is found[1] else found

    def change(self) -> float:
        pairs = zip(self.matrices(), self.old, strict=True)
        return max(float((now.detach()[: self.case.tokens] - then).abs().max()) for now, then in pairs)

    def rows(self) -> Tensor:
        """The new input rows."""
        if self.name == "ours":
            return next(iter(new_rows(self.model).values())).detach()
        if self.name == "peft":
            delta = self.model.get_base_model().get_input_embeddings().trainable_tokens_delta
            return delta["default"].detach()
        return self.matrices()[0].detach()[self.case.tokens : self.case.tokens + NEW]


def measured(case: Case, steps: int, memory: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """All ways of one case, and what misses its goal; the first step warms up."""
    ways = {name: Way(case, name) for name in WAYS}
    for number in range(steps + 1):
        for way in ways.values():
            way.step(number)
    ours, found, missed = ways["ours"], [], []
    for name, way in ways.items():
        ratio, low, high = ratios(ours.times[1:], way.times[1:])
        fewer = way.kept / ours.kept
        apart = float((way.rows() - ours.rows()).norm() / (ours.rows() - ours.start).norm())
        found.append(
            {"case": case.name, "way": WAYS[name], "trained": way.trained, "bytes": way.kept, "more bytes": fewer,
             "ours takes": ratio, "low": low, "high": high, "old rows": way.change(), "apart": apart,
             "seconds": median(way.times[1:]), "memory": peak(case.name, name) if memory else None}
        )  # fmt: skip
        if name != "ours" and ratio > MOST_TIME:
            missed.append(f"{case.name}: {ratio:.2f} of a step of {WAYS[name]}")
    there_is = max(case.tokens + NEW, case.config.vocab_size) / NEW
    if found[0]["more bytes"] < min(LEAST_BYTES, 0.999 * there_is):
        missed.append(f"{case.name}: only {found[0]['more bytes']:.0f} times fewer bytes")
    if ours.change() != 0.0:
        missed.append(f"{case.name}: old rows moved by {ours.change():.2g}")
    if found[0]["old rows"] == 0.0:
        missed.append(f"{case.name}: the mask held old rows against weight decay, which it cannot")
    if found[1]["apart"] > SAME:
        missed.append(f"{case.name}: other rows than PEFT's, by {found[1]['apart']:.1%} of the way")
    return found, missed


def peak(case: str, way: str) -> int:
    command = [sys.executable, __file__, "--memory", case, "--way", way]
    usual = {k: v for k, v in os.environ.items() if k not in KEEPS}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=usual).stdout.split()[-1])


def grown(name: str, way: str) -> int:
    """Bytes at the peak of two steps above those before the model was built; to be asked in a process of its own."""
    start = resident("VmRSS")
    made = Way(next(case for case in cases() if case.name == name), way)
    made.old.clear()
    for number in range(2):
        made.step(number)
    return resident("VmHWM") - start


HEAD = ("vocabulary", "way", "trained", "optimiser, gradient", "peak memory", "our step takes", "old rows moved by",
        "new rows apart, of the way")  # fmt: skip


def lines(found: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [r["case"], r["way"], f"{r['trained']:,}", f"{r['bytes'] / 2**20:,.1f} MiB ({r['more bytes']:.0f}x)",
         "" if r["memory"] is None else f"{r['memory'] / 2**30:.2f} GiB",
         "" if r["way"] == WAYS["ours"] else f"{r['ours takes']:.2f}x ({r['low']:.2f} to {r['high']:.2f})",
         f"{r['old rows']:.1e}" if r["old rows"] else "0.0", f"{r['apart']:.2%}"]
        for r in found
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", metavar="CASE", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(grown(options.memory, options.way))
        return 0
    if not KEEPS.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, str(Path(__file__)), *sys.argv[1:]], {**os.environ, **KEEPS})
    found: list[dict[str, Any]] = []
    missed: list[str] = []
    for case in cases():
        print(f"{case.name} …", flush=True)
        more, worse = measured(case, 4 if options.quick else 12, memory=not options.quick)
        found, missed = found + more, missed + worse
    show(f"560 new rows, {ROWS} x {LENGTH} tokens a step, weight decay 0.1", HEAD, lines(found), words=(0, 1))
    if not options.quick:
        gpu = "not measured" if not torch.cuda.is_available() else "the ways above ran on the processor"
        keep("rows.json", new=NEW, tokens=ROWS * LENGTH, found=found, gpu=gpu)
    held = (
        f"{LEAST_BYTES}x fewer bytes than (a) (58x where that is all), steps {MOST_TIME}x of (a), (b), old rows at 0.0"
    )
    print(verdict(missed, held))
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
