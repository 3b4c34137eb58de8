"""AdaLoRA in a run: ranks are given up on schedule, also after a resume, as in PEFT's own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from holdfast.adapters.adalora import Allocation
from holdfast.adapters.method import methods
from holdfast.run import Run
from holdfast.strategies.frozen import Frozen
from holdfast.training import Trainer
from tests.models import VOCABULARY, build

STEPS = 12
IDS = torch.randint(3, VOCABULARY, (STEPS, 4, 8), generator=torch.Generator().manual_seed(0))


def made(seed: int = 0) -> Any:
    return methods.apply("adalora", build("llama"), {"rank": 2, "start": 4, "warmup": 0.2}, seed=seed, steps=STEPS)


def ranks(model: Any) -> list[int]:
    """How many triples of each target are left: those whose e is not zero."""
    return [int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n]


def adapter(model: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n}


def test_it_is_the_loop_that_peft_asks_for() -> None:
    ours, theirs = made().train(), made().train()
    run = Run(ours, torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=1e-2), [Allocation(0.0)])
    run.begin()
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2)
    for step in range(STEPS):
        run.advance({"input_ids": IDS[step], "labels": IDS[step]})
        theirs(input_ids=IDS[step], labels=IDS[step]).loss.backward()
        optimizer.step()
        theirs.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    run.end()
    assert sum(ranks(ours)) == 2 * len(ranks(ours)) < 4 * len(ranks(ours))
    pairs = zip(adapter(ours).values(), adapter(theirs).values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_a_resumed_run_gives_up_the_same_ranks(tmp_path: Path) -> None:
    def trainer(folder: Path, **more: Any) -> Trainer:
        args = TrainingArguments(
            output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=1e-2, save_steps=5,
            save_strategy="steps", report_to="none", use_cpu=True, disable_tqdm=True, **more,
        )  # fmt: skip
        rows = [{"input_ids": row, "labels": row} for row in IDS.flatten(0, 1)]
        return Trainer(model=made(), args=args, train_dataset=rows, rules=[Allocation()])

    whole = trainer(tmp_path / "whole")
    whole.train()
    again = trainer(tmp_path / "whole")
    again.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-5"))
    assert ranks(again.model) == ranks(whole.model)
    assert all(torch.equal(t, adapter(whole.model)[n]) for n, t in adapter(again.model).items())


def test_a_factor_that_is_held_puts_allocation_off() -> None:
    model = made().train()
    run = Run(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2),
              [Allocation(), Frozen("layers(0:1)")])  # fmt: skip
    run.begin()
    before = adapter(model)
    for step in range(STEPS):
        run.advance({"input_ids": IDS[step], "labels": IDS[step]})
    run.end()
    held = [n for n in before if ".layers.0." in n]
    assert held and all(torch.equal(adapter(model)[n], before[n]) for n in held)
