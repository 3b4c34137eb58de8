"""What the monitor takes of the time of a real training, as it says itself and by the clock beside one without it."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
import transformers

from holdfast.base import Base
from holdfast.data.formats import read
from holdfast.data.rows import Rows, collate, rows
from holdfast.evaluation.callback import MonitorCallback

STATED, LENGTH, BATCH = 0.1, 128, 8
HEAD = ("model", "steps", "looks", "rows in a look", "share, told", "share, by the clock", "allowed", "same weights")


def shares(name: str, base: Base, steps: int, repetitions: int) -> dict[str, Any]:
    """Trainings with and without monitor in turns, from the same start: its share of processor time, the weights."""
    new = rows(read("tiny/shakespeare"), base.tokenizer, length=LENGTH)[: steps * BATCH]
    old = rows(read("tiny/stories"), base.tokenizer, length=LENGTH, pack=False)
    start = {key: value.clone() for key, value in base.model.state_dict().items()}
    plain, watched, told, same = [], [], {}, True
    trained(base, start, new, None, 8)  # the first steps of a process are slow
    for _ in range(repetitions):
        seconds, without, _ = trained(base, start, new, None, steps)
        plain.append(seconds)
        callback = MonitorCallback({"stories": old}, {"shakespeare": new}, share=STATED)
        seconds, weights, told = trained(base, start, new, callback, steps)
        watched.append(seconds)
        same &= torch.equal(weights, without)
    return {
        "model": name, "steps": steps, **told, "clock": 1 - min(plain) / min(watched), "same": same,
    }  # fmt: skip


def trained(
    base: Base, start: dict[str, torch.Tensor], new: Rows, callback: MonitorCallback | None, steps: int
) -> tuple[float, torch.Tensor, dict[str, Any]]:
    """Processor seconds of one training, its weights, and what its monitor says of itself."""
    base.model.load_state_dict(start)
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-4, seed=0,
            disable_tqdm=True, remove_unused_columns=False, save_strategy="no", logging_strategy="no",
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=base.model, args=args, train_dataset=new, data_collator=lambda r: collate(r, base.pad_id),
            callbacks=[] if callback is None else [callback],
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        began = time.process_time()
        trainer.train()
        took = time.process_time() - began
    weights = torch.cat([p.detach().flatten() for p in base.model.parameters()])
    return took, weights, {} if callback is None else callback.looks.told()


def line(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    return [
        found["model"], f"{found['steps']}", f"{found['looks']}", f"{found['rows']}", f"{found['share']:.1%}",
        f"{found['clock']:.1%}", f"{STATED:.0%}", "yes" if found["same"] else "NO",
    ]  # fmt: skip


def missed(found: dict[str, Any]) -> list[str]:
    """The goals that were missed: more than the stated share, or other weights."""
    faults = []
    if found["share"] > STATED:
        faults.append(f"the monitor took {found['share']:.1%} of {found['model']}")
    if not found["same"]:
        faults.append(f"the monitor changed the weights of {found['model']}")
    return faults
