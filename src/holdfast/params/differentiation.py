"""What all scores that need gradients share: what is differentiated, for which tensors, in a model left as it was."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy, pad

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.params.heads import speaker, speaking
from holdfast.params.layer_gradients import Factor
from holdfast.params.per_example import Batch, Sums
from holdfast.params.precision import own_precision

log = logging.getLogger(__name__)

Importance = dict[str, Tensor]
"""path -> float32 tensor of the parameter's shape."""
Progress = Callable[[int], None] | None
Objective = Callable[[nn.Module, Batch], Tensor]
TARGETS, WEIGHTS = "targets", "weights"
"""Keys of a batch that say what `weighed_losses` takes for the answers; the model never sees them."""


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """The sum of the token losses of each row in nats [rows]; Unsupported where the model gives no logits."""
    return _token_losses(model, batch)[0].sum(1)


def weighed_losses(model: nn.Module, batch: Batch) -> Tensor:
    """The sum over positions of weight times -log p(target) of each row, in nats [rows].

    `targets` (a token for each logit's position) and `weights` stand in the batch, [rows, positions].
    """
    logits = _logits(model, {k: v for k, v in batch.items() if k not in (TARGETS, WEIGHTS)})
    targets, weights = (pad(batch[k], (logits.shape[1] - batch[k].shape[1], 0)) for k in (TARGETS, WEIGHTS))
    loss = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return loss.view(targets.shape).mul(weights).sum(1)


def predictions(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [rows, positions, vocabulary], and the label that each position predicts (-100: none) [rows, positions].

    Labels are shifted unless the model is an encoder-decoder or a masked language model.
    """
    logits = _logits(model, batch)
    virtual = logits.shape[1] - batch["labels"].shape[1]  # tokens of prompt tuning, which stand first
    labels = pad(batch["labels"], (virtual, 0), value=-100)
    if not _two_sided(model) and getattr(_inner(model), "loss_type", None) != "ForMaskedLM":
        labels = pad(labels[:, 1:], (0, 1), value=-100)
    return logits, labels


def squared_logits(model: nn.Module, batch: Batch) -> Tensor:
    """The squared L2 norm of all logits of each row [rows]; padding does not count, virtual tokens neither."""
    logits = _logits(model, batch)
    if _two_sided(model):
        text = batch["labels"].ne(-100)
    else:
        text = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).ne(0)
    text = pad(text, (logits.shape[1] - text.shape[1], 0))
    return logits.float().square().sum(-1).mul(text).sum(1)


def over_examples(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    factor: Factor,
    *,
    paths: Collection[str] | None,
    chunk_bytes: int = 8 * 2**20,
    progress: Progress = None,
) -> Importance:
    """The mean over sequences of g * factor(g), with g the gradient of the objective of one sequence by itself.

    How the sequences are batched does not matter. `fisher` describes how it is done, the arguments, and the errors.
    """
    parameters = chosen(model, paths)
    done = 0
    with undisturbed(model):
        sums = Sums(model, set(parameters.values()), partial(objective, model), factor, chunk_bytes)
        for batch in _moved(batches, parameters):
            if not done:
                sums.check(batch)
                looped = [path for path, p in parameters.items() if p in sums.looped]
                log.debug("looped over examples, for want of a rule that agrees with autograd: %s", looped or "nothing")
            sums.add(batch)
            done += len(batch["input_ids"])
            if progress:
                progress(done)
    _some(done)
    means = {p: total.div_(done) for p, total in sums.sums.items()}
    return {path: means[p] for path, p in parameters.items()}


def over_tokens(
    model: nn.Module,
    batches: Iterable[Batch],
    worth: Callable[[Tensor, Tensor], Tensor],
    *,
    paths: Collection[str] | None,
    progress: Progress = None,
) -> Importance:
    """worth(g, w), with g the gradient of the mean token loss over all batches together, in nats per token.

    Both are float32; `worth` may write to g. Losses are added up over tokens and divided once, so how the sequences
    are batched does not matter. Errors as in `fisher`; BadInput also where no token bears a loss.
    """
    parameters = chosen(model, paths)
    unique = list(dict.fromkeys(parameters.values()))
    done = tokens = 0
    with undisturbed(model):
        sums = {p: torch.zeros(p.shape, dtype=torch.float32, device=p.device) for p in unique}
        for p in unique:
            p.requires_grad_(True)
        for batch in _moved(batches, parameters):
            loss, counted = _token_losses(model, batch)
            for p, grad in zip(unique, torch.autograd.grad(loss.sum(), unique, allow_unused=True), strict=True):
                sums[p].add_(0 if grad is None else grad)
            tokens += int(counted.sum())
            done += len(batch["input_ids"])
            if progress:
                progress(done)
    _some(done)
    if not tokens:
        raise BadInput("No token of these sequences bears a loss (all labels are -100), so there is no gradient.")
    found = {p: worth(total.div_(tokens), p.detach().float()) for p, total in sums.items()}
    return {path: found[p] for path, p in parameters.items()}


def chosen(model: nn.Module, paths: Collection[str] | None) -> dict[str, nn.Parameter]:
    """The parameters of these names, tied aliases included, in the model's order; None: all that require a gradient.

    Raises UnknownName for a path that the model does not have, BadInput where nothing is left, and Unsupported for
    tensors that are sharded or quantised.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for path in paths or ():
        if path not in named:
            raise UnknownName("parameter", path, named)
    if paths is None:
        found = {path: p for path, p in model.named_parameters() if p.requires_grad}
    else:
        found = {path: p for path, p in named.items() if path in paths}
    if not found:
        raise BadInput("There is no parameter to measure the importance of: none is named or requires a gradient.")
    for path, p in found.items():
        if isinstance(p, DTensor) or not p.is_floating_point():
            raise Unsupported(f"{path} is sharded or quantised; measure importance before that is done to it.")
    return found


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, nothing requiring a gradient, gradients on and autocast off; all put back afterwards."""
    modes = [(m, m.training) for m in model.modules()]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval()
        for p, _ in flags:
            p.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad(), own_precision(model):
            yield
    finally:
        for m, training in modes:
            m.training = training
        for p, flag in flags:
            p.requires_grad_(flag)


def _token_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of each token in nats, and which of them count, both [rows, tokens]."""
    logits, labels = predictions(model, batch)
    loss = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return loss.view(labels.shape), labels.ne(-100)


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    inputs: dict[str, Any] = {k: v for k, v in batch.items() if k != "labels" or _two_sided(model)}
    if "use_cache" in inspect.signature(_inner(model).forward).parameters:
        inputs["use_cache"] = False
    with speaking(model):
        logits = getattr(model(**inputs), "logits", None)
    if not isinstance(logits, Tensor) or speaker(model) is None:
        raise Unsupported("Importance is measured on a model that returns `logits`, one row for each token.")
    return logits


def _inner(model: nn.Module) -> nn.Module:
    unwrap = getattr(model, "get_base_model", None)
    inner: nn.Module = unwrap() if callable(unwrap) else model
    return inner


def _two_sided(model: nn.Module) -> bool:
    return bool(getattr(getattr(_inner(model), "config", None), "is_encoder_decoder", False))


def _moved(batches: Iterable[Batch], parameters: dict[str, nn.Parameter]) -> Iterator[dict[str, Tensor]]:
    device = next(iter(parameters.values())).device
    return ({k: v.to(device) for k, v in batch.items()} for batch in batches)


def _some(sequences: int) -> None:
    if not sequences:
        raise BadInput("There are no sequences to measure importance on; give at least one batch.")
