"""Importance that goes from task to task: files and mappings that fit full weights and LoRA products alike."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.params.inventory import Param
from holdfast.run import Run

FILE = "importance.safetensors"
"""The name of the file in a rule's folder."""

Importance = dict[str, Tensor]


def weighed(param: Param) -> str:
    """The path of the tensor whose importance counts: for a LoRA factor, the weight that its product is added to."""
    return param.path if param.lora is None else param.lora.target


def plain(path: str) -> str:
    """A weight's path as it is without PEFT, the same before an adapter is added and after it is merged.

    >>> plain("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return re.sub(r"^base_model\.model\.", "", path).replace(".base_layer.", ".")


def read(given: Mapping[str, Tensor] | str | Path, run: Run) -> Importance:
    """The importance of all that a run weighs, from a file of `write` or of `params.importance.save`, or a mapping.

    Names may be those with or without PEFT; what the run does not train is left out. Raises BadInput, with the reason,
    for a file that cannot be read, a weight that is missing or has another shape, and values below 0 or not finite.
    """
    values = given if isinstance(given, Mapping) else _loaded(Path(given))
    known = {plain(path): t for path, t in values.items()}
    shapes = {n: t.shape for n, t in run.model.named_parameters(remove_duplicate=False)}
    device = next(iter(run.tensors.values())).device
    found: Importance = {}
    for path in dict.fromkeys(weighed(p) for p in run.params.values()):
        if plain(path) not in known or known[plain(path)].shape != shapes[path]:
            raise BadInput(
                f"The importance given has no tensor for {plain(path)} of shape {list(shapes[path])}. Give that of the "
                "same base, measured on at least the weights that train here."
            )
        found[path] = known[plain(path)].detach().to(device, torch.float32, copy=True)
        if not bool((found[path] >= 0).all() & found[path].isfinite().all()):
            raise BadInput(f"The importance given for {plain(path)} has values that are negative or not finite.")
    return found


def write(importance: Mapping[str, Tensor], folder: str | Path) -> Path:
    """Write importance to a folder for the next task, under plain names, whole or not at all."""
    file = Path(folder) / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{os.getpid()}.part")
    values = {plain(n): t.detach().to("cpu", torch.float32, copy=True).contiguous() for n, t in importance.items()}
    try:
        save_file(values, half, metadata={"holdfast": "importance of earlier tasks, 1"})
        os.replace(half, file)
    finally:
        half.unlink(missing_ok=True)
    return file


def _loaded(file: Path) -> Importance:
    try:
        return load_file(file)
    except FileNotFoundError:
        raise BadInput(
            f"There is no file {file}. A run writes it at its end, as {FILE} in the rule's folder."
        ) from None
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{file} is no whole safetensors file ({error}). Measure the importance again.") from error
