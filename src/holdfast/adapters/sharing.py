"""What can share a base with other adapters, said before anything is put on it."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from holdfast._errors import BadInput, UnmatchedSelect, Unsupported
from holdfast.adapters.method import methods
from holdfast.adapters.stored import WEIGHTS

REWRITING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts of LoRA that take part of a weight out of it, so that the base is another one afterwards."""


def planned_config(base: PreTrainedModel, method: str | Mapping[str, Any], seed: int = 0) -> PeftConfig:
    """The config that a method, said as in a recipe, would use, from a twin of the base without values.

    Raises UnknownName for a method that does not exist, Unsupported for one that adds no adapter or computes its start
    from the base's weights.
    """
    named = {method: {}} if isinstance(method, str) else dict(method)
    if "name" in named:  # as a recipe says it
        named = {named.pop("name"): named}
    if len(named) != 1:
        raise BadInput(f"A method is its name or a mapping such as {{name: lora, rank: 8}}, not {method!r}.")
    ((name, settings),) = named.items()
    if (settings or {}).get("init") in (*REWRITING, "eva"):
        raise Unsupported(f"{name}: this start reads or changes the base's weights. Take one that draws them.")
    with torch.device("meta"):
        twin = type(base)(copy.deepcopy(base.config))
    made: Any = methods.apply(name, twin, dict(settings or {}), seed=seed)
    if not isinstance(made, PeftModel):
        raise Unsupported(f"{name} adds nothing beside the base, so there is no adapter to switch.")
    config: PeftConfig = made.peft_config["default"]
    return config


def check_name(base: nn.Module, name: str) -> None:
    """PEFT finds an adapter's tensors by its name between two dots, wherever in a path that is; raises BadInput."""
    parts = {part for path, _ in base.named_parameters() for part in path.split(".")}
    if not name or "." in name or name in parts or hasattr(nn.ModuleDict, name):
        raise BadInput(f"PEFT cannot tell an adapter called {name!r} from parts of the model. Take another name.")


def check_config(config: PeftConfig, paths: Sequence[str], present: Any = None) -> None:
    """Raise Unsupported for an adapter that cannot stand beside those of the kind `present`, or would change the base.

    `paths` are the modules of the bare base; UnmatchedSelect for a target that names none of them, with the nearest.
    """
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise Unsupported("Prompts have no layers to switch in the base. Take a method that adds adapters to layers.")
    if present is not None and config.peft_type != present:
        here, new = (getattr(kind, "value", kind) for kind in (present, config.peft_type))
        raise Unsupported(f"The adapters here are {here}, and PEFT puts no {new} beside them.")
    if rewrites(config) or getattr(config, "bias", "none") != "none" or getattr(config, "layer_replication", None):
        raise Unsupported("This adapter would change the base that all share (its weights, biases or layers).")
    targets = getattr(config, "target_modules", None) or []
    for target in [] if isinstance(targets, str) else targets:
        if not any(path == target or path.endswith(f".{target}") for path in paths):
            near = difflib.get_close_matches(target, {path.rpartition(".")[2] for path in paths}, cutoff=0.0)
            raise UnmatchedSelect(f"No module is called {target!r}. The nearest are {', '.join(near)}.")


def rewrites(config: PeftConfig) -> bool:
    """Whether an adapter of this config puts other values in the place of the base's own, each time it is loaded."""
    return str(getattr(config, "init_lora_weights", "")).startswith(REWRITING) or config.peft_type == "OSF"


def check_shapes(model: PeftModel, name: str, folder: Path) -> None:
    """Raise BadInput where a folder's tensors are not those of an adapter; PEFT passes over missing and odd ones."""
    tensors = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    wanted = {key: tuple(value.shape) for key, value in tensors.items()}
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  no mapping
    if odd := [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]:
        raise BadInput(
            f"{folder} does not fit the adapter {name!r}: {len(odd)} tensors are missing, too many or of another "
            f"shape, the first of them {odd[0]}. Load it under a name of its own."
        )
