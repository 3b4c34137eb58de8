"""Scores of importance by name, what they say of whole tensors, and the files they are kept in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from holdfast._errors import BadInput, UnknownName
from holdfast._registry import Registry
from holdfast.params.differentiation import Importance
from holdfast.params.fingerprint import structure, weights
from holdfast.params.fisher import fisher
from holdfast.params.own_labels import fisher_exact, fisher_sampled
from holdfast.params.scores import gradient, magnitude, mas, movement, sensitivity

Score = Callable[..., Importance]
Reduce = Literal["mean", "sum", "max", "norm"]

scores: Registry[Score] = Registry("importance score")
"""`score(model, batches, *, paths=None, progress=None, ...)` -> path -> float32 tensor of the parameter's shape.

>>> scores.names()
['fisher', 'fisher_exact', 'fisher_sampled', 'gradient', 'magnitude', 'mas', 'movement', 'sensitivity']
"""
for _score in (fisher, fisher_exact, fisher_sampled, gradient, magnitude, mas, movement, sensitivity):
    scores.register(_score.__name__)(_score)

QUANTILES = (0.25, 0.5, 0.75)
"""Where one level ends and the next begins."""

_REDUCES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda t: t.mean(dtype=torch.float64),
    "sum": lambda t: t.sum(dtype=torch.float64),
    "max": lambda t: t.amax(),
    "norm": lambda t: torch.linalg.vector_norm(t, dtype=torch.float64),
}
_KIND = "importance, 1"


class Level(StrEnum):
    """How important a tensor is beside the others of its model."""

    CRITICAL = "critical"
    IMPORTANT = "important"
    MODERATE = "moderate"
    LOW = "low"


def per_tensor(importance: Mapping[str, Tensor], reduce: Reduce = "mean") -> dict[str, float]:
    """One score for each tensor: mean, sum or max over its elements, or their L2 norm; empty tensors score 0.

    The mean compares tensors of unlike size; the norm is what a gradient norm is made of.

    >>> per_tensor({"a": torch.tensor([3.0, 4.0])}), per_tensor({"a": torch.tensor([3.0, 4.0])}, "norm")
    ({'a': 3.5}, {'a': 5.0})
    """
    if reduce not in _REDUCES:
        raise UnknownName("way to sum up a tensor called", reduce, _REDUCES)
    return {path: float(_REDUCES[reduce](t)) if t.numel() else 0.0 for path, t in importance.items()}


def ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """The rank of each score among all, from 0 (the lowest) to 1 (the highest), whatever their scale.

    Equal scores share the mean of their ranks; one score by itself has rank 1. Raises BadInput for nan.

    >>> ranks({"a": 0.1, "b": 70.0, "c": 0.1, "d": 1e9})
    {'a': 0.16666666666666666, 'b': 0.6666666666666666, 'c': 0.16666666666666666, 'd': 1.0}
    """
    values = np.fromiter(scores.values(), dtype=np.float64)
    if np.isnan(values).any():
        path = next(path for path, value in scores.items() if value != value)
        raise BadInput(f"The score of {path} is not a number, so nothing can be ranked; look at the text.")
    if len(values) < 2:
        return dict.fromkeys(scores, 1.0)
    ordered = np.sort(values)
    below, upto = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return dict(zip(scores, ((below + upto - 1) / (2 * (len(values) - 1))).tolist(), strict=True))


def levels(scores: Mapping[str, float], quantiles: tuple[float, float, float] = QUANTILES) -> dict[str, Level]:
    """The level of each score: its rank (see `ranks`) cut at three rising quantiles in [0, 1].

    With (0.25, 0.5, 0.75) the lowest quarter is low, then moderate, important and, from 0.75 on, critical. Cut by rank,
    the same quantiles fit every score and every model. A score of 0 is low at any rank. Raises BadInput.

    >>> {path: str(level) for path, level in levels({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}).items()}
    {'a': 'low', 'b': 'moderate', 'c': 'important', 'd': 'critical'}
    """
    if len(quantiles) != 3 or not 0 <= quantiles[0] <= quantiles[1] <= quantiles[2] <= 1:
        raise BadInput(f"Levels are cut at three rising quantiles in [0, 1], such as {QUANTILES}; got {quantiles}.")
    low, middle, high = quantiles

    def level(rank: float) -> Level:
        if rank >= middle:
            return Level.CRITICAL if rank >= high else Level.IMPORTANT
        return Level.MODERATE if rank >= low else Level.LOW

    return {path: level(rank) if scores[path] else Level.LOW for path, rank in ranks(scores).items()}


def save(importance: Mapping[str, Tensor], file: str | Path, model: nn.Module, *, score: str = "") -> Path:
    """Write importance as one safetensors file that knows its score and the model it belongs to, whole or not at all.

    The model is known by the paths, shapes and dtypes of its parameters and a sample of their values (see
    `holdfast.params.fingerprint`). Raises BadInput for a tensor that fits no parameter of the model.
    """
    shapes = {path: p.shape for path, p in model.named_parameters(remove_duplicate=False)}
    for path, tensor in importance.items():
        if shapes.get(path) != tensor.shape:
            raise BadInput(f"{path}, {list(tensor.shape)}, is no parameter of this model; save with the model it fits.")
    told = {"holdfast": _KIND, "score": score, "structure": structure(model), "weights": weights(model)}
    values = {p: t.detach().to("cpu", torch.float32, copy=True).contiguous() for p, t in importance.items()}
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        save_file(values, half, metadata=told)
        os.replace(half, file)
    finally:
        half.unlink(missing_ok=True)
    return file


def load(file: str | Path, model: nn.Module, *, score: str | None = None) -> Importance:
    """Read what `save` wrote, each tensor on the device of its parameter.

    Raises BadInput, with the reason, for a file that is missing, damaged or something else, that belongs to a model
    with other parameters or other weights, or that holds another score than the one asked for (None: any).
    """
    try:
        with safe_open(str(file), framework="pt") as stored:
            told = stored.metadata() or {}
            _fits(file, told, model, score)
            kept = set(stored.keys())
            named = {path: p for path, p in model.named_parameters(remove_duplicate=False) if path in kept}
            return {path: stored.get_tensor(path).to(p.device) for path, p in named.items()}
    except FileNotFoundError:
        raise BadInput(f"There is no file {file}. Importance is written by `params.importance.save`.") from None
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{file} is no whole safetensors file ({error}). Measure the importance again.") from error


def _fits(file: str | Path, told: Mapping[str, str], model: nn.Module, score: str | None) -> None:
    if told.get("holdfast") != _KIND:
        raise BadInput(f"{file} holds no importance: its tensors are something else, written by something else.")
    if told["structure"] != structure(model):
        raise BadInput(f"{file} belongs to a model with other paths, shapes or types. Measure this one's importance.")
    if told["weights"] != weights(model):
        raise BadInput(
            f"{file} belongs to a model of the same structure with other weights: another one, or this one before or "
            "after some training. Load the weights it was measured on, or measure again."
        )
    if score is not None and told["score"] != score:
        raise BadInput(f"{file} holds {told['score'] or 'a score without a name'}, not {score}. Measure {score}.")
