"""QLoRA: LoRA beside weights that are stored in 4 or 8 bits and do not move."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from peft import PeftModel, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, PreTrainedModel

from holdfast.adapters.lora import lora
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.quantised import is_quantised, quantisation, quantised
from holdfast.adapters.wrapping import on_meta

STORAGE = dict(inspect.signature(quantisation).parameters)
"""The knobs that say how the base is stored."""


def _loading(arguments: Mapping[str, Any]) -> BitsAndBytesConfig:
    return quantisation(**{key: value for key, value in arguments.items() if key in STORAGE})


@methods.register("qlora", Traits(loading=_loading, kind="LORA"))
def qlora(model: PreTrainedModel, **knobs: Any) -> PeftModel:
    """LoRA on a base whose linear layers are stored in `bits`: the knobs of `quantisation` and those of `lora`.

    A model that is not yet quantised is copied in quantised form; a recipe loads it so from the start. Norms compute in
    float32. What was learnt belongs to the quantised base: beside another form of it, it differs. Raises as both do.
    Dettmers et al. (2023), arXiv:2305.14314.
    """
    settings = _loading(knobs)
    if not on_meta(model):
        stored = model if is_quantised(model) else quantised(model, settings)
        model = prepare_model_for_kbit_training(stored, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    made: PeftModel = lora(model, **{key: value for key, value in knobs.items() if key not in STORAGE})
    return made


def _joined() -> inspect.Signature:
    """LoRA's signature with the knobs of storage before its own."""
    own = dict(inspect.signature(lora).parameters)
    first = own.pop("model")
    stored = [knob.replace(kind=inspect.Parameter.KEYWORD_ONLY) for knob in STORAGE.values()]
    return inspect.Signature([first, *stored, *own.values()])


qlora.__signature__ = _joined()
