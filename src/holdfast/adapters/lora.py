"""LoRA through PEFT: a product of two thin matrices is learnt beside each chosen weight, which itself stays."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from peft import LoraConfig, PeftModel, initialize_lora_eva_weights
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import BadInput, UnknownName
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.targets import Targets, target_modules
from holdfast.adapters.wrapping import on_meta, transposed, wrapped
from holdfast.data.quiet import quiet
from holdfast.data.rows import Row, collate, padding

logger = logging.getLogger(__name__)

SAID = {
    "r": "`rank`", "lora_alpha": "`alpha`", "lora_dropout": "`dropout`", "target_modules": "`targets`",
    "layers_to_transform": "`layers`", "layers_pattern": "`layers`", "init_lora_weights": "`init`",
    "use_rslora": "`rslora`", "use_dora": "`dora`",
}  # fmt: skip
"""Arguments of PEFT's config that have a name here."""

INITS = ("default", "gaussian", "orthogonal", "pissa", "olora", "eva")
FIRST = 64
"""Rows that EVA looks at, at most, and how many at a time."""
AT_ONCE = 8


@methods.register("lora", Traits(kind="LORA"))
def lora(
    model: PreTrainedModel,
    *,
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
    """Add factors A [rank, in] and B [out, rank] to each target: W x becomes W x + (alpha / rank) B A x.

    `alpha` is twice the rank unless told. `targets` is a selection as text (`mlp`, `attention & layers(50%:)`,
    `"*.q_proj.*"`) or a list of module names; of what it names, the linear layers get factors. `layers` narrows it.
    With `rslora` the factor is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732), with `dora` BA turns rows
    whose magnitudes are learnt apart (Liu et al. 2024, arXiv:2402.09353). `init` says where A and B start:
    `default` and `gaussian` with B at zero, so that the model starts as the base; `pissa` (arXiv:2404.02948) and
    `olora` (arXiv:2406.01775) take the weight's principal part out of it and put it in the factors; `eva`
    (arXiv:2410.07170) takes A from the inputs that the first of `rows` bring to each layer. `peft` are further
    arguments of PEFT's LoraConfig. A is drawn from `seed`, and no other random state moves.

    Raises BadInput for settings out of range and for parts without linear layers, UnmatchedSelect for a name that
    matches nothing, with the nearest. Hu et al. (2021), arXiv:2106.09685.
    """
    _check(rank, alpha, dropout, init)
    if elsewhere := sorted(SAID.keys() & (peft or {}).keys()):
        raise BadInput(f"lora: `peft` says {elsewhere[0]}, which is {SAID[elsewhere[0]]} of the method itself.")
    names = target_modules(model, targets, layers)
    check_rank(model, names, rank)
    settings = {
        "r": rank,
        "lora_alpha": 2 * rank if alpha is None else alpha,
        "lora_dropout": dropout,
        "target_modules": names,
        "fan_in_fan_out": transposed(model, names),
        "use_rslora": rslora,
        "use_dora": dora,
        "init_lora_weights": _init(init, on_meta(model)),
        **(peft or {}),
    }
    made = wrapped(model, LoraConfig, settings, seed)
    if settings["init_lora_weights"] == "eva":
        _from_data(made, rows, tokenizer)
    logger.info("LoRA of rank %d on %d layers: %s", rank, len(names), ", ".join(names))
    return made


def _check(rank: int, alpha: float | None, dropout: float, init: str) -> None:
    if rank < 1 or (alpha is not None and alpha <= 0) or not 0 <= dropout < 1:
        raise BadInput(f"lora: rank >= 1, alpha > 0 and 0 <= dropout < 1; not {rank}, {alpha} and {dropout}.")
    if init not in INITS:
        raise UnknownName("start of LoRA (`init`) called", init, INITS)


def check_rank(model: nn.Module, names: Sequence[str], rank: int) -> None:
    """Raise BadInput where a factor would be wider than the matrix that it stands beside."""
    for name in names:
        weight: Any = model.get_submodule(name).weight
        narrow = min(getattr(weight, "quant_state", weight).shape)
        if rank > narrow:
            raise BadInput(f"A rank of {rank} is more than {name} has: it is {narrow} wide. Take at most that.")


def _init(init: str, planned: bool) -> bool | str:
    """PEFT's name of a start; a model without values can only be planned, and all starts have the same shapes."""
    return True if init == "default" or planned else init


def _from_data(model: PeftModel, rows: Sequence[Row] | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
    if not rows:
        raise BadInput("lora: `init: eva` takes the factors from data. Give `rows`, as a recipe does by itself.")
    pad = 0 if tokenizer is None else padding(tokenizer)
    whole = len(rows) // AT_ONCE * AT_ONCE or len(rows)  # PEFT follows one direction through batches of one size
    with quiet(model) as device:
        batches = [
            {key: value.to(device) for key, value in collate(rows[i : i + AT_ONCE], pad).items()}
            for i in range(0, min(whole, FIRST), AT_ONCE)
        ]
        initialize_lora_eva_weights(model, batches, show_progress_bar=False)
