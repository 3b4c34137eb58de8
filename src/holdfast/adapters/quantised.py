"""A base in 4 or 8 bits: how bitsandbytes is to store its linear layers, on a processor and on a GPU alike."""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from holdfast._errors import BadInput, MissingExtra

SETTINGS = "quantization_config.json"
"""Beside an adapter: how the base was stored while the adapter learnt."""


def quantisation(bits: int = 4, kind: str = "nf4", double: bool = True) -> BitsAndBytesConfig:
    """How linear layers are stored: 4 bits (`nf4` or `fp4`, `double` quantises the scales too) or LLM.int8 in 8 bits.

    They compute in bfloat16 on a GPU that has it, else in float32. Head and embedding stay as they are. Raises BadInput
    for other bits and kinds, MissingExtra without bitsandbytes. Dettmers et al. (2023), arXiv:2305.14314, and (2022),
    arXiv:2208.07339.
    """
    if bits not in (4, 8) or kind not in ("nf4", "fp4"):
        raise BadInput(f"A base can be stored in 4 bits (kind nf4 or fp4) or in 8, not in {bits} of kind {kind!r}.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("A base in 4 or 8 bits", "quantise")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.bfloat16 if fast else torch.float32,
    )


def quantised(model: PreTrainedModel, settings: BitsAndBytesConfig) -> PreTrainedModel:
    """A quantised copy of a model, by way of a temporary folder, so that it is what loading it quantised would give."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        made: PreTrainedModel = type(model).from_pretrained(
            folder, quantization_config=settings, dtype=model.dtype, device_map={"": model.device}
        )
    made.name_or_path = made.config.name_or_path = model.name_or_path
    return made


def stored_bytes(settings: BitsAndBytesConfig, elements: int) -> int:
    """Bytes of a quantised weight of so many elements, with its scales.

    Per block of 64 elements one absolute maximum of 4 bytes; double quantisation keeps it in 1 byte, with one of 4
    bytes for each 256 of them. In 8 bits there is a scale for each row, which does not count here.
    """
    if settings.load_in_8bit:
        return elements
    blocks = math.ceil(elements / 64)
    scales = blocks + 4 * math.ceil(blocks / 256) if settings.bnb_4bit_use_double_quant else 4 * blocks
    return math.ceil(elements / 2) + scales


def is_quantised(model: Any) -> bool:
    """Whether a transformers model (or one below PEFT) holds quantised layers."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bool(getattr(inner, "is_quantized", False))


def write_settings(model: Any, folder: Path) -> None:
    """Note beside a saved adapter how its base is stored, where that is quantised."""
    if is_quantised(model):
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        (folder / SETTINGS).write_text(inner.config.quantization_config.to_json_string(), encoding="utf-8")


def read_settings(folder: Path) -> BitsAndBytesConfig:
    """The note that `write_settings` left; raises BadInput for one that cannot be read."""
    try:
        told = json.loads((folder / SETTINGS).read_text("utf-8"))
        made: BitsAndBytesConfig = BitsAndBytesConfig.from_dict(told)  # type: ignore[no-untyped-call]
        return made
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{folder / SETTINGS} does not say how the base was quantised: {error}") from error
