"""What a weight matters, by other measures than the Fisher information; each a function of one shape.

`score(model, batches, *, paths=None, progress=None, ...)` gives path -> float32 tensor of the parameter's shape. What
`holdfast.params.fisher.fisher` says of arguments and errors holds for all; none depends on how rows are batched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from holdfast._errors import BadInput
from holdfast.params.differentiation import Importance, Progress, chosen, over_examples, over_tokens, squared_logits
from holdfast.params.per_example import Batch


def gradient(
    model: nn.Module, batches: Iterable[Batch], *, paths: Collection[str] | None = None, progress: Progress = None
) -> Importance:
    """|g|, with g the gradient of the mean token loss over all batches together, in nats per token and unit of weight.

    `per_tensor(..., "norm")` of it is the gradient norm of each tensor. Near a minimum of the loss g vanishes where
    single sequences still pull either way; `fisher` and `mas` see that, this does not.
    """
    return over_tokens(model, batches, lambda g, w: g.abs_(), paths=paths, progress=progress)


def mas(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    paths: Collection[str] | None = None,
    chunk_bytes: int = 8 * 2**20,
    progress: Progress = None,
) -> Importance:
    """Memory aware synapses: 1/n * sum over the n sequences i of |d ||F(x_i)||^2 / d w| (Aljundi, arXiv:1711.09601).

    F(x_i) are the logits of all tokens of sequence i, padding left out, so labels do not count (but for the decoder's
    input of an encoder-decoder). The absolute value is taken for one sequence by itself, from the same per-example
    gradients as in `fisher`.
    """
    return over_examples(
        model, batches, squared_logits, torch.sign, paths=paths, chunk_bytes=chunk_bytes, progress=progress
    )


def sensitivity(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    paths: Collection[str] | None = None,
    relative: bool = False,
    progress: Progress = None,
) -> Importance:
    """|g * w|: how much the mean token loss would change, to first order, were the weight zero; in nats per token.

    g is the gradient of the mean token loss. The first-order criterion of Molchanov (arXiv:1906.10771), of which it is
    the root. `relative` gives |g| / (|w| + 1e-8) instead: which weights are small for the gradient that they get.
    """

    def worth(g: Tensor, w: Tensor) -> Tensor:
        return g.abs_().div_(w.abs().add_(1e-8)) if relative else g.mul_(w).abs_()

    return over_tokens(model, batches, worth, paths=paths, progress=progress)


def movement(
    model: nn.Module,
    batches: Iterable[Batch] = (),
    *,
    start: Mapping[str, Tensor],
    paths: Collection[str] | None = None,
    progress: Progress = None,
) -> Importance:
    """|w - start|: how far each weight has moved; reads no text.

    `start` holds the values before, by path (a `state_dict` will do). Raises BadInput where it lacks a parameter or
    holds it in another shape.
    """
    parameters = chosen(model, paths)
    for path, p in parameters.items():
        if path not in start:
            raise BadInput(f"The start values lack {path}; give those of every parameter asked for.")
        if start[path].shape != p.shape:
            shapes = f"{list(start[path].shape)} in the start values and {list(p.shape)} in the model"
            raise BadInput(f"{path} is {shapes}; give the values that this model started from.")
    before = {path: start[path].detach().to(p.device, torch.float32) for path, p in parameters.items()}
    return {path: p.detach().float().sub(before[path]).abs_() for path, p in parameters.items()}


def magnitude(
    model: nn.Module,
    batches: Iterable[Batch] = (),
    *,
    paths: Collection[str] | None = None,
    progress: Progress = None,
) -> Importance:
    """|w|: how large each weight is; reads no text."""
    return {path: p.detach().float().abs() for path, p in chosen(model, paths).items()}
