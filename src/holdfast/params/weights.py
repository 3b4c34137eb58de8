"""The numbers themselves, read, written and swapped in place, on plain tensors and on the local shards of FSDP2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Values = dict[str, Tensor]


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; writing to it writes to the tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the processes that hold parts of it; where it is sharded, all must ask."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copied(params: Mapping[str, nn.Parameter]) -> Values:
    """A copy of the local values, by name."""
    return {name: local(p).clone() for name, p in params.items()}


@torch.no_grad()
def write(params: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Write values over the parameters of the same names."""
    for name, value in values.items():
        local(params[name]).copy_(value)


@contextmanager
def swapped(params: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """The model at other values for a while, without copying where the tensors are plain.

    Safe between a forward pass and its backward pass: the parameters are the same objects, and hold the
    same storage again, when gradients flow.
    """
    plain = {n: params[n].data for n in values if not isinstance(params[n].data, DTensor)}
    sharded = copied({n: params[n] for n in values if n not in plain})
    try:
        for name in plain:
            params[name].data = values[name].to(plain[name].dtype)
        write(params, {n: values[n] for n in sharded})
        yield
    finally:
        for name, data in plain.items():
            params[name].data = data
        write(params, sharded)


@torch.no_grad()
def between(start: Mapping[str, Tensor], end: Mapping[str, Tensor], fraction: float) -> Values:
    """Values on the straight line from `start` (fraction 0, exactly) to `end` (fraction 1, exactly)."""
    if fraction == 0:  # where `end` is not finite, no multiple of it is
        return {name: start[name].clone() for name in end}
    return {name: torch.lerp(start[name], value.to(start[name].dtype), fraction) for name, value in end.items()}
