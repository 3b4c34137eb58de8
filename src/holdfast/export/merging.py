"""An adapter merged into its base, and the proof that the model answers as it did before."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from holdfast._errors import BadInput, ExportRefused, Unsupported
from holdfast.adapters.quantised import is_quantised
from holdfast.export.probe import Difference, difference, logits_of
from holdfast.vocabulary.rows import embedding_of, fold

TOLERANCE = 1e-3
"""Largest difference of a logit that merging in float32 may make; it makes some 1e-5."""

ROUNDED = 0.5
"""The same as a share of the logits' spread, where one of the two models computes in 16 or 8 bits. Rounding alone makes
0.01 to 0.1 of it on trained models and 0.3 on random ones: this finds what breaks, such as a float16 that overflows."""


@dataclass(frozen=True)
class MergeCheck:
    """What merging, dequantising and rounding changed together, and how much they may.

    `quantised` says that the model before computed with weights in 4 or 8 bits, `parted` that embedding and head, which
    the base shares, are two weights now.
    """

    difference: Difference
    tolerance: float
    dtype: torch.dtype
    quantised: bool
    parted: bool

    @property
    def passed(self) -> bool:
        """Whether no logit moved further than it may."""
        return self.difference.largest <= self.tolerance


def merge(
    model: Any,
    rows: Sequence[Sequence[int]],
    *,
    dtype: torch.dtype = torch.float32,
    tolerance: float | None = None,
    force: bool = False,
) -> tuple[PreTrainedModel, MergeCheck]:
    """Merge the adapter of a model (a plain model stays as it is) and round it to `dtype`; the model is used up.

    A quantised base is dequantised first: rounding the sum to 4 bits again would lose most of what was learnt. Where
    a base has one weight for embedding and head and the adapter changes one of them, they are parted. Both models are
    asked the same `rows` of tokens, and their logits compared in float32. `tolerance` is absolute; unless told it is
    1e-3, and half of the logits' spread where `dtype` or a quantised base computes in fewer bits than float32.

    Raises Unsupported for an adapter that no weight can take in, BadInput for one with weights that are not numbers,
    and ExportRefused above the tolerance without `force`.
    """
    check_mergeable(model)
    quantised, before = is_quantised(model), logits_of(model, rows)
    exact = dtype == torch.float32 and not (quantised and _rounds(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says beforehand what is measured here afterwards
        plain, parted = _merged(_dequantised(model) if quantised else model)
    _round(plain, dtype)
    found = difference(before, logits_of(plain, rows))
    limit = tolerance if tolerance is not None else TOLERANCE if exact else ROUNDED * found.spread
    check = MergeCheck(found, limit, dtype, quantised, parted)
    if not check.passed and not force:
        raise ExportRefused(_refusal(check, adapted=isinstance(model, PeftModel)))
    return plain, check


def _round(model: Any, dtype: torch.dtype) -> None:
    """Round the weights as loading in `dtype` would: tables that are computed, such as those of rotary positions, and
    weights that the architecture keeps in float32 stay as they are."""
    kept = model._keep_in_fp32_modules if dtype == torch.float16 else ()
    parts = {*(kept or ()), *(model._keep_in_fp32_modules_strict or ())}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parts.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def check_mergeable(model: Any) -> None:
    """Raise Unsupported, saying what can be done, for an adapter that is not a change of weights."""
    if not isinstance(model, PeftModel):
        return
    kind = str(getattr(model.active_peft_config.peft_type, "value", model.active_peft_config.peft_type)).lower()
    what = 'Export it as an adapter: `--adapter` (form="adapter").'
    if model.active_peft_config.is_prompt_learning:
        raise Unsupported(f"{kind} puts virtual tokens before each text and changes no weight to merge into. {what}")
    tuner: Any = model.base_model
    if not hasattr(tuner, "merge_and_unload"):
        raise Unsupported(f"PEFT cannot merge {kind}. {what}")
    try:
        tuner._check_merge_allowed()
    except (ValueError, NotImplementedError, Unsupported) as error:
        raise Unsupported(f"{kind} cannot be merged: {error} {what}") from error


def _rounds(model: Any) -> bool:
    """Whether a quantised base computes in fewer bits than float32, as 8-bit layers always do."""
    settings = model.config.quantization_config
    return not (getattr(settings, "load_in_4bit", False) and settings.bnb_4bit_compute_dtype == torch.float32)


def _dequantised(model: Any) -> Any:
    """The same model with its base in float32, which a merge into quantised weights would round again."""
    if not isinstance(model, PeftModel):
        return _plain_floats(model)
    name = model.active_adapter
    config = model.peft_config[name]
    state = {key: value.clone() for key, value in get_peft_model_state_dict(model, adapter_name=name).items()}
    wrapped = get_peft_model(_plain_floats(model.unload()), config)
    set_peft_model_state_dict(wrapped, state)
    return wrapped


def _plain_floats(model: Any) -> Any:
    made = model.dequantize(dtype=torch.float32)
    # How the quantised files were read has no way back, and saving would look for it.
    vars(made).pop("_weight_conversions", None)
    return made.float()


def _merged(model: Any) -> tuple[Any, bool]:
    """The merged model, new rows in its matrix, and whether embedding and head were one weight and are two now."""
    plain, parted = _without_adapter(model)
    return plain if embedding_of(plain) is None else fold(plain), parted


def _without_adapter(model: Any) -> tuple[Any, bool]:
    if not isinstance(model, PeftModel):
        return model, False
    inner: Any = model.get_base_model()
    shared = _shared(inner)
    if shared:
        _part(inner)
    try:
        plain: Any = model.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError) as error:
        raise BadInput(f"PEFT cannot merge this adapter: {error} Export it by `--adapter`.") from error
    return plain, shared and _settle_ties(plain)


def _ends(model: Any) -> list[Any]:
    """Embedding and head, each below its adapter; fewer where there is no head."""
    found = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [getattr(end, "base_layer", getattr(end, "original_module", end)) for end in found if end is not None]


def _shared(model: Any) -> bool:
    ends = _ends(model)
    return len(ends) == 2 and ends[0].weight is ends[1].weight


def _part(model: Any) -> None:
    """Give the head a weight of its own where the adapter changes one of the two: merging would change both."""
    adapted = [isinstance(end, BaseTunerLayer) for end in (model.get_input_embeddings(), model.get_output_embeddings())]
    if any(adapted):
        head = _ends(model)[1]
        head.weight = nn.Parameter(head.weight.detach().clone())


def _settle_ties(model: Any) -> bool:
    """Let the config say whether embedding and head are one weight; returns whether they are two."""
    first, last = (end.weight for end in _ends(model))
    parted = not torch.equal(first, last)
    if parted and not _always_ties(model.config):
        model.config.tie_word_embeddings = False
    else:
        # Two different weights in the files are left apart on loading, whatever such a config says.
        model.config.tie_word_embeddings = True
    if not parted:
        model.tie_weights()
    return parted


def _always_ties(config: Any) -> bool:
    """Whether the flag means something else to this architecture: T5 takes it for whether to scale its outputs."""
    return bool(type(config)(tie_word_embeddings=False).tie_word_embeddings)


def _refusal(check: MergeCheck, adapted: bool) -> str:
    found = check.difference
    what = "The merged model" if adapted else "The model as it would be written"
    name = str(check.dtype).removeprefix("torch.")
    rounding = " Write it in float32, which rounds nothing." if check.dtype != torch.float32 else ""
    return (
        f"{what} does not answer as it did before: a logit moved by {found.largest:.3g} in {name} "
        f"({found.relative:.1%} of their spread), where {check.tolerance:.3g} is allowed, and {found.flipped:.1%} of "
        f"{found.positions} positions have another likeliest token. Nothing was written.{rounding} To write it all the "
        f"same: --force{', to allow more: --tolerance' if found.largest < float('inf') else ''}"
        f"{', to keep the adapter beside its base: --adapter' if adapted else ''}."
    )
