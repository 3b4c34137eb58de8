"""QLoRA: LoRA beside weights that are stored in 4 or 8 bits and do not move."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftModel, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from holdfast.adapters.lora import lora
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.quantised import is_quantised, quantisation, quantised
from holdfast.adapters.targets import Targets
from holdfast.adapters.wrapping import on_meta
from holdfast.data.rows import Row


def _loading(arguments: Mapping[str, Any]) -> BitsAndBytesConfig:
    """The method's knobs about storage, as settings for loading."""
    return quantisation(**{k: v for k, v in arguments.items() if k in inspect.signature(quantisation).parameters})


@methods.register("qlora", Traits(loading=_loading, kind="LORA"))
def qlora(
    model: PreTrainedModel,
    *,
    bits: int = 4,
    kind: str = "nf4",
    double: bool = True,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Targets = "mlp",
    layers: str | None = None,
    init: str = "default",
    rslora: bool = False,
    dora: bool = False,
    peft: Mapping[str, Any] | None = None,
    rows: Sequence[Row] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> PeftModel:
    """LoRA (see `lora` for the other knobs) on a base whose linear layers are stored in `bits`, see `quantisation`.

    A model that is not yet quantised is copied in quantised form; a recipe loads it so from the start. Norms train-time
    precision is float32. What was learnt belongs to the quantised base: merged into another form of it, it differs.
    Dettmers et al. (2023), arXiv:2305.14314.
    """
    settings = quantisation(bits, kind, double)
    if not on_meta(model):
        stored = model if is_quantised(model) else quantised(model, settings)
        model = prepare_model_for_kbit_training(stored, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    made: PeftModel = lora(
        model,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=targets,
        layers=layers,
        init=init,
        rslora=rslora,
        dora=dora,
        peft=peft,
        rows=rows,
        tokenizer=tokenizer,
        seed=seed,
    )
    return made
