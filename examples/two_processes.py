"""Two processes train one governed model, on the CPU over gloo or on two GPUs over NCCL.

    torchrun --nproc-per-node 2 examples/two_processes.py            # each process holds the whole model (DDP)
    torchrun --nproc-per-node 2 examples/two_processes.py --shard    # each holds a part of every tensor (FSDP2)
    python examples/two_processes.py                                 # one process, the same batches: the same weights

On GPUs `accelerate launch --num-processes 2` does the same as `torchrun`; on a CPU it starts one process only. The
weights that are left go to `OUTPUT/weights.safetensors`, the journal to `OUTPUT/journal.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, TrainingArguments
from transformers.distributed import DistributedConfig

from holdfast import Governor, Guard, Trainer, load_base
from holdfast.data.formats import read as records
from holdfast.data.rows import Rows, collate, rows
from holdfast.remedies.distill import Distill
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.replay import Replay
from holdfast.strategies.frozen import Frozen
from holdfast.tiny import MODEL

BATCH = 8


def first(name: str, tokenizer: Any, count: int) -> Rows:
    """The first rows of an embedded text, 64 tokens each."""
    return rows(records(name), tokenizer, length=64)[:count]


def main() -> None:
    """Train, and let the first process write what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", action="store_true", help="split every tensor over the processes (FSDP2)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save-steps", type=int, default=0, help="write a checkpoint every so many steps (DDP only)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint")
    parser.add_argument("--output", type=Path, default=Path("runs/two_processes"))
    options = parser.parse_args()

    base = load_base("tiny")
    model = sharded() if options.shard else base.model
    new, old = first("tiny/shakespeare", base.tokenizer, 256), first("tiny/stories", base.tokenizer, 256)
    rules = [
        Frozen("layers(0:1)"),
        Replay(old[:128], share=0.5, labels=False, pad_id=base.pad_id),
        Distill(strength=4.0),
        L2SP(strength=1.0),
        Governor([Guard("tiny/stories", old[128:], audits=128, budget=0.25)], every=5, look=64, pad_id=base.pad_id),
    ]
    args = TrainingArguments(
        output_dir=str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=BATCH // int(os.environ.get("WORLD_SIZE", 1)),
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="steps" if options.save_steps else "no",
        save_steps=options.save_steps or 500,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model, args=args, train_dataset=new, data_collator=lambda r: collate(r, base.pad_id), rules=rules
    )
    trainer.train(resume_from_checkpoint=options.resume)
    write(trainer, options.output)


def sharded() -> Any:
    """The embedded model, each tensor of it split over the processes as it is loaded."""
    parts = DistributedConfig(fsdp_size=int(os.environ["WORLD_SIZE"]))
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, distributed_config=parts)


def write(trainer: Any, output: Path) -> None:
    """Gather the weights on every process; the first one writes them, and the journal."""
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in trainer.model.named_parameters()}
    if trainer.args.process_index == 0:
        output.mkdir(parents=True, exist_ok=True)
        save_file({n: p.detach().cpu().clone() for n, p in whole.items()}, output / "weights.safetensors")
        lines = (json.dumps(line) for line in trainer.run.journal)
        (output / "journal.jsonl").write_text("\n".join(lines), "utf8")
        print(f"trained by {trainer.args.world_size} processes: {output}")


if __name__ == "__main__":
    main()
