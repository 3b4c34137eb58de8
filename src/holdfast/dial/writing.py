"""The chosen model as files: an adapter scaled, where scaling it is the same, else whole weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from holdfast import checkpoint
from holdfast.adapters.sharing import rewrites
from holdfast.adapters.stored import CONFIG, load_adapted
from holdfast.base import Base
from holdfast.dial.line import Fractions, Line
from holdfast.params.inventory import Param, inventory
from holdfast.recipe.schema import Recipe

logger = logging.getLogger(__name__)


def write_model(
    run: Path, base: Base, recipe: Recipe, line: Line, fractions: Fractions, card: Callable[[bool], str], folder: Path
) -> None:
    """Write the model at these fractions as `folder/final`, whole or not at all, with tokenizer and card.

    A LoRA adapter of a run that began without one stays an adapter: its factors B are multiplied by the fractions.
    Where that would be another model (DoRA, modules saved whole, an adapter that went on learning), whole weights are
    written. `card` is asked for the model card, and told whether it is an adapter's.
    """
    final = folder / "final"
    staging = final.with_name(".final")
    folder.mkdir(parents=True, exist_ok=True)
    adapter = None if (Path(recipe.base) / CONFIG).is_file() else _scaled(run / "final", line, fractions)
    with checkpoint.kept_whole(staging, final):
        if adapter is not None:
            adapter.save_pretrained(str(staging))
        else:
            with line.at(fractions) as model:
                whole: Any = model
                whole.save_pretrained(staging)
        base.tokenizer.save_pretrained(staging)
        (staging / "README.md").write_text(card(adapter is not None), encoding="utf-8")


def _scaled(final: Path, line: Line, fractions: Fractions) -> PeftModel | None:
    """The run's adapter with every product scaled by the fraction of its block; None where that is not possible."""
    if not (final / CONFIG).is_file():
        return None
    model: Any = load_adapted(final).model
    tensors = dict(model.named_parameters())
    factors = [param for param in inventory(model) if param.lora is not None and param.lora.side == "B"]
    scales = {path: fractions[block] for block, paths in line.blocks.items() for path in paths}
    targets = {_plain(param): param.path for param in factors}
    odd = any(getattr(c, "use_dora", False) or rewrites(c) for c in model.peft_config.values())
    if targets.keys() != scales.keys() or odd:
        logger.warning("The adapter is more than a sum of products: the dial writes whole weights instead.")
        return None
    with torch.no_grad():
        for target, path in targets.items():
            tensors[path].mul_(scales[target])
    return model  # type: ignore[no-any-return]


def _plain(param: Param) -> str:
    """What the weight under a pair of factors is called in the model without adapters."""
    assert param.lora is not None
    return param.lora.target.removeprefix("base_model.model.").replace(".base_layer", "")
