"""One step by hand: gradients from batches, scaled as the Trainer scales them, or gradients that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from holdfast._errors import BadInput
from holdfast.objective import items, loss_of
from holdfast.rule import REPLAYED, Window

if TYPE_CHECKING:
    from holdfast.run import Run


def backward(run: Run, window: Window) -> float:
    """Gradients of the loss and the rules' penalties over a window of micro-batches; returns the loss."""
    count = sum(items(run.model, b) for b in window)
    total = 0.0
    for batch in window:
        inputs = {k: v for k, v in batch.items() if k != REPLAYED}
        loss, outputs = loss_of(run.model, inputs, count, len(window))
        loss = loss + run.penalty(batch, outputs)
        run.watch(loss)
        if loss.requires_grad:  # else all that could move is held in this step
            with run.uncast():
                loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def set_gradients(run: Run, gradients: Mapping[str, Any]) -> None:
    """Ready gradients by path, as tensors, arrays or lists; raises BadInput for unknown paths and other shapes."""
    for name, value in gradients.items():
        if name not in run.tensors:
            raise BadInput(f"There is no trainable parameter {name!r} for the gradient that was given.")
        tensor = run.tensors[name]
        gradient = torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device)
        if gradient.shape != tensor.shape:
            raise BadInput(
                f"The gradient for {name!r} has shape {tuple(gradient.shape)}; the parameter has {tuple(tensor.shape)}."
            )
        if not torch.isfinite(gradient).all():
            raise BadInput(f"The gradient for {name!r} is not finite; no step was taken. Lower the learning rate.")
        if isinstance(tensor, DTensor):
            gradient = distribute_tensor(gradient, tensor.device_mesh, tensor.placements)
        tensor.grad = None if name in run.held else gradient.clone()
