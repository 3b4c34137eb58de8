"""The same rules in three hosts: transformers' Trainer, TRL's SFTTrainer, and a loop of your own.

    python examples/hosts.py trainer
    python examples/hosts.py trl         # pip install 'holdfast[trl]'
    python examples/hosts.py loop

Each teaches the embedded base Shakespeare while old stories are replayed and distilled, with the governor looking, and
says what was learnt and what was kept. The rows come in the same order, so all three end at the same figures.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer as Original
from transformers import TrainingArguments, set_seed

from holdfast import Governor, Guard, RulesMixin, attach, load_base
from holdfast.base import Base
from holdfast.data.formats import read
from holdfast.data.rows import Rows, collate, rows
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.statistics import paired
from holdfast.remedies.distill import Distill
from holdfast.remedies.replay import Replay
from holdfast.rule import Rule

BATCH, RATE = 8, 1e-3


def first(base: Base, name: str, count: int) -> Rows:
    """The first rows of an embedded text, 64 tokens each."""
    return rows(read(name), base.tokenizer, length=64)[:count]


def rules(base: Base, old: Rows) -> list[Rule]:
    """Half of each batch are old rows, on which the base says what to answer; perplexity may rise by 5 %."""
    guard = Guard("tiny/stories", old[128:256], audits=128, budget=0.05)
    replay = Replay(old[:128], share=0.5, pad_id=base.pad_id)
    return [replay, Distill(strength=8.0), Governor([guard], every=10, look=64, pad_id=base.pad_id)]


def arguments(kind: Any, steps: int, **more: Any) -> Any:
    """Settings that all trainers share: rows in their order, a rate that falls to zero, no clipping."""
    return kind(
        output_dir="runs/hosts", max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE,
        lr_scheduler_type="linear", max_grad_norm=0.0, train_sampling_strategy="sequential", save_strategy="no",
        logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=not torch.cuda.is_available(), **more,
    )  # fmt: skip


def by_trainer(base: Base, new: Rows, old: Rows, steps: int) -> None:
    """transformers' own Trainer with the mixin in front, which is what `holdfast.Trainer` is."""

    class Ruled(RulesMixin, Original):  # type: ignore[misc]
        pass

    Ruled(
        model=base.model,
        args=arguments(TrainingArguments, steps),
        train_dataset=new,
        data_collator=partial(collate, pad_id=base.pad_id),
        rules=rules(base, old),
    ).train()


def by_trl(base: Base, new: Rows, old: Rows, steps: int) -> None:
    """TRL's SFTTrainer; rows are tokens already, and the mixin gives it `rules`."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class Ruled(RulesMixin, SFTTrainer):  # type: ignore[misc]
        pass

    Ruled(
        model=base.model,
        args=arguments(SFTConfig, steps, bf16=False, gradient_checkpointing=False),
        train_dataset=Dataset.from_list([{"input_ids": r["input_ids"], "labels": r["labels"]} for r in new]),
        processing_class=base.tokenizer,
        rules=rules(base, old),
    ).train()


def by_loop(base: Base, new: Rows, old: Rows, steps: int) -> None:
    """A plain PyTorch loop: three lines of it are ours."""
    model = base.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    scheduler = LambdaLR(optimizer, lambda step: 1 - step / steps)
    with attach(rules(base, old), model, optimizer, scheduler=scheduler, seed=42, total=steps) as run:
        for step in range(steps):
            at = step * BATCH % len(new)
            for batch in run.batch([collate(new[at : at + BATCH], base.pad_id)]):
                outputs = model(**{k: v for k, v in batch.items() if k in ("input_ids", "labels", "attention_mask")})
                (outputs.loss + run.penalty(batch, outputs)).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            run.after()


HOSTS = {"trainer": by_trainer, "trl": by_trl, "loop": by_loop}


def main() -> None:
    """Train in one of the hosts and print what became of the new text and the old one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", choices=HOSTS)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    set_seed(42)
    base = load_base("tiny")
    new, old = first(base, "tiny/shakespeare", 256 + 128), first(base, "tiny/stories", 384)
    held = {"new text": new[256:], "old text": old[256:]}
    before = {name: sequence_losses(base.model, part) for name, part in held.items()}
    HOSTS[options.host](base, new[:256], old, options.steps)
    for name, part in held.items():
        rise = paired(before[name], sequence_losses(base.model, part))
        told = f"{rise.mean:+.4f} nats per token (95 %: {rise.low:+.4f} to {rise.high:+.4f})"
        print(f"{options.host}, {name}: loss {told}")


if __name__ == "__main__":
    main()
