"""What does it take to save a run and to go back, beside torch.save and torch.load of everything?

    python benchmarks/checkpoints.py --quick      27 million parameters, 3 rounds      (under two minutes)
    python benchmarks/checkpoints.py              95 million parameters, 7 rounds      (ten minutes)
    python benchmarks/checkpoints.py --small      tries the script on a small model; judges and writes nothing

A random Llama of ten blocks in float32 with fused AdamW, in three cases: LoRA of rank 8 on the MLP; the upper 30 % of
the layers, the rest frozen; everything. Ours is `save_snapshot` and `load_snapshot`, as the rule `rollback` uses them.
Theirs is torch.save of the state dicts of the whole model, optimiser and schedule and of the random state, to a
temporary name, synced to the disk and renamed, as ours is; and torch.load with weights_only, and load_state_dict. Both
take turns in one process; times are medians, from a live model to a file and from the file to a live model, the file
being in the system's cache. Between saving and going back a step is made, so that there is something to undo.

Exits 1 when a snapshot is more than 2 % larger than what moves and its optimiser state, or when it does not bring back
weights and optimiser bit for bit.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import keep, show, verdict
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from holdfast.adapters.method import methods
from holdfast.rule import Rule
from holdfast.run import Run
from holdfast.snapshots import load_snapshot, save_snapshot
from holdfast.strategies.frozen import Frozen

LARGEST, VOCABULARY = 1.02, 16000
SIZES = {
    "full": {"hidden_size": 768, "intermediate_size": 2560, "num_hidden_layers": 10, "num_attention_heads": 12},
    "quick": {"hidden_size": 384, "intermediate_size": 1280, "num_hidden_layers": 10, "num_attention_heads": 6},
    "small": {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 10, "num_attention_heads": 4},
}
ROUNDS = {"full": 7, "quick": 3, "small": 2}
CASES: dict[str, tuple[str, list[Rule]]] = {
    "LoRA of rank 8": ("lora", []),
    "30 % of the layers": ("full", [Frozen("~layers(70%:)")]),
    "everything": ("full", []),
}
HEAD = ("what trains", "of", "", "bytes", "of what it must hold", "save", "go back")
ABOUT = (
    "`save_snapshot` and `load_snapshot`, as the rule `rollback` uses them, beside torch.save and torch.load of the "
    "state dicts of the whole model and the optimiser; a random Llama in float32 with AdamW. Both write to a temporary "
    "name, sync and rename; times are medians over rounds in turns, files lie in the system's cache. What a snapshot "
    "must hold is what moves and its optimiser state; with everything in training that is all."
)


def started(case: str, size: str) -> Run:
    """A run of a random model, two steps on."""
    set_seed(0)
    method, rules = CASES[case]
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, use_cache=False, **SIZES[size])
    model = methods[method](LlamaForCausalLM(config), seed=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(trained, lr=1e-3, fused=True)
    run = Run(model, optimizer, rules, scheduler=LambdaLR(optimizer, lambda step: 0.99**step))
    run.begin()
    for _ in range(2):
        step(run)
    return run


def step(run: Run) -> None:
    ids = torch.randint(VOCABULARY, (1, 8))
    run.advance({"input_ids": ids, "labels": ids})


def torch_saved(run: Run, file: Path) -> None:
    whole = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(),
             "scheduler": run.scheduler.state_dict(), "random": torch.get_rng_state()}  # fmt: skip
    half = file.with_suffix(".part")
    with half.open("wb") as written:
        torch.save(whole, written)
        written.flush()
        os.fsync(written.fileno())
    os.replace(half, file)


def torch_loaded(run: Run, file: Path) -> None:
    whole = torch.load(file, weights_only=True)
    run.model.load_state_dict(whole["model"])
    run.optimizer.load_state_dict(whole["optimizer"])
    run.scheduler.load_state_dict(whole["scheduler"])
    torch.set_rng_state(whole["random"])


WAYS: dict[str, tuple[Callable[[Run, Path], None], Callable[[Run, Path], None]]] = {
    "holdfast": (save_snapshot, load_snapshot),
    "torch": (torch_saved, torch_loaded),
}


def timed(call: Callable[[Run, Path], None], run: Run, file: Path) -> float:
    start = time.perf_counter()
    call(run, file)
    return time.perf_counter() - start


def live(run: Run) -> list[Tensor]:
    """All weights, and all that the optimiser keeps, in the order of the parameters."""
    kept = [run.optimizer.state[p] for group in run.optimizer.param_groups for p in group["params"]]
    return [*run.model.parameters(), *(t for state in kept for _, t in sorted(state.items()))]


def weight(tensors: list[Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def measured(case: str, size: str, folder: Path) -> list[dict[str, Any]]:
    """Both ways through one case, in turns."""
    run = started(case, size)
    moving = [p for n, p in run.tensors.items() if n not in run.held]
    due = weight(moving) + weight([t for state in run.optimizer.state.values() for t in state.values()])
    found = {w: {"case": case, "way": w, "save": [], "back": [], "exact": True, "due": due} for w in WAYS}
    for _ in range(ROUNDS[size]):
        for way, (save, load) in WAYS.items():
            row, file = found[way], folder / way
            row["save"].append(timed(save, run, file))
            then = [t.detach().clone() for t in live(run)]
            step(run)
            row["back"].append(timed(load, run, file))
            row["exact"] &= all(torch.equal(a, b) for a, b in zip(then, live(run), strict=True))
            row["bytes"] = file.stat().st_size
    run.end()
    share = sum(p.numel() for p in moving) / parameters(run.model)
    return [{**row, "share": share} for row in found.values()]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def lines(found: list[dict[str, Any]]) -> list[list[str]]:
    out = []
    for row in found:
        times = [f"{1000 * median(row[k]):,.0f} ms" for k in ("save", "back")]
        held = f"{row['bytes'] / row['due']:.1%}"
        out.append([row["case"], f"{row['share']:.1%}", row["way"], f"{row['bytes'] / 2**20:,.1f} MiB", held, *times])
    return out


def faults(found: list[dict[str, Any]]) -> list[str]:
    ours, said = [row for row in found if row["way"] == "holdfast"], []
    for row in ours:
        if row["bytes"] > LARGEST * row["due"]:
            said.append(f"{row['case']}: the snapshot is {row['bytes'] / row['due']:.1%} of what it must hold")
        if not row["exact"]:
            said.append(f"{row['case']}: what came back is not what was saved")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for size in ("quick", "small"):
        parser.add_argument(f"--{size}", action="store_const", const=size, dest="size", default="full")
    size = parser.parse_args().size
    with TemporaryDirectory(prefix="holdfast-") as folder:
        found = [row for case in CASES for row in measured(case, size, Path(folder))]
    show("Saving a run, and going back", HEAD, lines(found), words=(0, 2))
    missed = faults(found)
    said = verdict(missed, "snapshots hold what they must, bring it back, and no more")
    if size != "small":
        keep("checkpoints.json", about=ABOUT, table={"head": HEAD, "rows": lines(found)}, verdict=said)
    print(said)
    return bool(missed) and size != "small"


if __name__ == "__main__":
    sys.exit(main())
