"""LoRA through PEFT: a product of two thin matrices is learnt beside each chosen weight, which itself stays."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from holdfast._errors import BadInput, UnmatchedSelect
from holdfast.adapters.method import methods
from holdfast.base import Base, load_base
from holdfast.params.inventory import inventory
from holdfast.params.select import matched, parse

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@methods.register("lora")
def lora(
    model: PreTrainedModel,
    *,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "mlp",
    seed: int = 0,
) -> PeftModel:
    """Add factors A [rank, in] and B [out, rank] to each target: W x becomes W x + (alpha / rank) B A x.

    `alpha` is twice the rank unless told. `targets` is a selection as text (`mlp`, `attention & layers(50%:)`,
    `"*.q_proj.*"`) or a list of module names (`[q_proj, v_proj]`); of what it names, the linear layers get factors.
    B starts at zero and A is drawn from `seed`, so the model starts as the base and no other random state moves.
    Raises BadInput for a rank, alpha or dropout out of range and for parts without linear layers, UnmatchedSelect for
    a name that matches nothing, with the nearest. Hu et al. (2021), arXiv:2106.09685.
    """
    if rank < 1 or (alpha is not None and alpha <= 0) or not 0 <= dropout < 1:
        raise BadInput(f"lora: rank >= 1, alpha > 0 and 0 <= dropout < 1; not {rank}, {alpha} and {dropout}.")
    names = target_modules(model, targets)
    transposed = any(isinstance(model.get_submodule(name), Conv1D) for name in names)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=names,
        fan_in_fan_out=transposed,
    )
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        wrapped: PeftModel = get_peft_model(model, config)
    logger.info("LoRA of rank %d on %d layers: %s", rank, len(names), ", ".join(names))
    return wrapped


def target_modules(model: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """Full paths of the linear layers that `targets` names, in order; every part of it has to name one."""
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    if not isinstance(targets, str):
        return _named(linear, list(targets))
    selected = {path.rpartition(".")[0] for p in matched(parse(targets), inventory(model)) for path in p.paths}
    if not (found := [path for path in linear if path in selected]):
        raise BadInput(
            f"lora: {targets} names no linear layer of this model, and only those take factors. "
            f"Linear layers are {', '.join(_leaves(linear))}."
        )
    return found


def _named(linear: Sequence[str], names: Sequence[str]) -> list[str]:
    """PEFT passes over names that match nothing as long as one does; here each has to match."""
    if not names:
        raise BadInput("lora: targets is empty, so nothing would train. Name parts (mlp) or layers ([q_proj, v_proj]).")
    for name in names:
        if not any(_is(path, name) for path in linear):
            near = difflib.get_close_matches(name, _leaves(linear), n=3, cutoff=0.0)
            raise UnmatchedSelect(f"lora: no linear layer is called {name!r}. The nearest are {', '.join(near)}.")
    return [path for path in linear if any(_is(path, name) for name in names)]


def _is(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _leaves(paths: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def load_adapted(folder: str | Path, *, trainable: bool = False) -> Base:
    """A base with the adapter in `folder` on it, as a run's `final/` holds it; any other folder or name is a base.

    With `trainable` the adapter can go on learning. The digest changes with the base and with the adapter.

    Raises BadInput where the adapter is not in safetensors (pickles are never opened) or does not name its base.
    """
    place = Path(folder)
    if not (place / CONFIG).is_file():
        return load_base(folder)
    if not (place / WEIGHTS).is_file():
        raise BadInput(f"{place} has a {CONFIG} but no {WEIGHTS}. Save the adapter again with `model.save_pretrained`.")
    named = json.loads((place / CONFIG).read_text("utf-8")).get("base_model_name_or_path")
    if not named:
        raise BadInput(f"{place / CONFIG} does not say which base the adapter belongs to (base_model_name_or_path).")
    base = load_base(named)
    adapted: Any = PeftModel.from_pretrained(base.model, place, is_trainable=trainable)
    parts = [base.digest.encode(), (place / CONFIG).read_bytes(), (place / WEIGHTS).read_bytes()]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return Base(adapted, base.tokenizer, str(folder), digest)
