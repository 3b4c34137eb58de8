"""Memory: what a step will hold, what a run held at its peak, and what to change where there was not enough."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from torch import Tensor, nn
from transformers import TrainingArguments

from holdfast._errors import HoldfastError
from holdfast.adapters.method import methods
from holdfast.params.heads import classifies
from holdfast.params.plan import plan
from holdfast.recipe.model import outline, parameters
from holdfast.recipe.schema import Recipe

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET = "5"
"""What sets the kernel's mark of the most resident memory back to the present."""


def activations(model: nn.Module, rows: int, length: int, *, checkpointing: bool = False) -> int | None:
    """Bytes that a forward pass of `rows` x `length` tokens keeps for its backward pass.

    Counted, not estimated: the model (on the meta device too) is asked, and each storage that autograd saves counts
    once. With `checkpointing` only the inputs of blocks and what follows the last one stay, and one block at a time is
    filled again. None for models that cannot be asked without values, and where nothing trains.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return None
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.ones(rows, length, dtype=torch.int64, device=next(model.parameters()).device)
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(input_ids=ids, labels=torch.zeros_like(ids[:, 0]) if classifies(model) else ids)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError):
        return None
    total = sum(kept.values())
    return _checkpointed(model, total, rows * length) if checkpointing else total


def _checkpointed(model: Any, total: int, tokens: int) -> int:
    config = model.config.get_text_config()
    blocks, width, vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
    outside = min(total, 2 * 4 * tokens * vocabulary)  # the logits and their log-softmax, in float32
    return int((total - outside) / blocks + 4 * tokens * width * blocks + outside)


class Peak:
    """The most memory that was held since this was made, in bytes: of the GPU, or else of the whole process."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif CLEAR.exists():
            with suppress(OSError):  # the mark then includes what came before
                CLEAR.write_text(RESET)
        self.before = held(device)

    def told(self) -> dict[str, Any]:
        """`device`, and `before` and `peak` in bytes (None where the system does not say)."""
        kind = "GPU" if self.device.type == "cuda" else "process"
        peak = held(self.device, most=True)  # the kernel's two marks are not taken at the same instant
        return {"of": kind, "before": self.before, "peak": peak and max(peak, self.before or 0)}


def held(device: torch.device, *, most: bool = False) -> int | None:
    """Bytes held now, or the most so far: tensors on a GPU, else the whole process; None where no system says."""
    if device.type == "cuda":
        return int((torch.cuda.max_memory_allocated if most else torch.cuda.memory_allocated)(device))
    mark = "VmHWM" if most else "VmRSS"
    found = re.search(rf"{mark}:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return int(found[1]) * 1024 if found else None


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, on a GPU or on a processor."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in said


def remedies(recipe: Recipe, args: TrainingArguments) -> str:
    """What to change, with numbers: what the parts of a step hold, and what each change would save."""
    rows, length, method = args.train_batch_size, recipe.learn.length, methods.traits(recipe.method.name)
    try:
        model = outline(recipe)
    except HoldfastError:  # the base is an adapter, or the model cannot be outlined: advice without figures
        return f"Take fewer rows at a time than {rows}, shorter ones than {length} tokens, or the method qlora."
    cost, ticked = plan(parameters(recipe, model)).cost, bool(args.activation_checkpointing)
    held = activations(model, rows, length, checkpointing=ticked)
    told = [
        f"Weights take {decimal(cost.weights)}, gradients {decimal(cost.gradients)}, AdamW's state "
        f"{decimal(cost.optimizer)}" + (f", activations about {decimal(held)}." if held else ".")
    ]
    if rows > 1:
        some = max(n for n in range(1, rows) if rows % n == 0)
        more = args.gradient_accumulation_steps * rows // some
        saved = f", saves about {decimal(held - held * some // rows)}" if held else ""
        told.append(f"- train.per_device_train_batch_size={some} train.gradient_accumulation_steps={more}{saved}")
    if held and not ticked and method.checkpointing:
        less = activations(model, rows, length, checkpointing=True) or held
        told.append(f"- train.activation_checkpointing=true, saves about {decimal(max(0, held - less))}")
    if length > 64:
        told.append(f"- learn.length={length // 2}" + (f", saves about {decimal(held // 2)}" if held else ""))
    if method.kind is None:
        told.append(f"- method.name=lora, saves about {decimal(cost.gradients + cost.optimizer)}")
    elif method.loading is None:
        told.append(f"- method.name=qlora, saves about {decimal(cost.weights * 3 // 4)}")
    return "\n".join(told)
