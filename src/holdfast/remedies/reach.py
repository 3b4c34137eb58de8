"""A forward pass whose gradient reaches only some of the weights."""

from __future__ import annotations

from typing import Any

from torch.distributed.tensor import DTensor
from torch.func import functional_call

from holdfast._errors import Unsupported
from holdfast.params.select import Select, matched
from holdfast.rule import REPLAYED, Batch
from holdfast.run import Run


def refuse(run: Run, name: str, select: Select) -> None:
    """Raise UnmatchedSelect for a selection of nothing, Unsupported where gradients cannot be kept apart."""
    matched(select, list(run.params.values()))
    if any(isinstance(tensor, DTensor) for tensor in run.tensors.values()):
        raise Unsupported(f"{name}: `layers` needs whole tensors, which FSDP2 splits; use plain data parallel.")
    if getattr(run.model, "is_activation_checkpointing", False):
        raise Unsupported(
            f"{name}: with gradient checkpointing the forward pass is made again later, when nobody knows which "
            "weights `layers` leaves out. Train without checkpointing, or without `layers`."
        )


def reaching(run: Run, select: Select, batch: Batch) -> Any:
    """The model's outputs for a batch, as it is now; their gradient reaches the selected parameters only.

    Below the lowest selected block nothing is kept for the backward pass, and nothing is computed in it.
    """
    fixed = {name: run.tensors[name].detach() for name, param in run.params.items() if not select(param)}
    inputs = {key: value for key, value in batch.items() if key != REPLAYED}
    return functional_call(run.model, fixed, args=(), kwargs=inputs)
