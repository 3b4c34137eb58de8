"""New rows of a vocabulary as PEFT writes them: the trainable tokens of a base with as many rows."""

from __future__ import annotations

import copy
from typing import Any

from peft import PeftModel, TrainableTokensConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from holdfast._errors import Unsupported
from holdfast.vocabulary.rows import embedding_of, fold, is_tied, sides

TAKES_TOKENS = "trainable_token_indices"
"""The setting of PEFT's methods that can train tokens beside themselves."""


def as_peft(model: Any) -> PeftModel:
    """A copy of a model with new rows in PEFT's format, with its adapter if it has one.

    `PeftModel.from_pretrained` loads what it saves onto the base, made as many rows long by `resize_token_embeddings`.
    Raises Unsupported for an adapter that PEFT cannot save together with tokens.
    """
    into = embedding_of(model)
    ids = list(range(into.boundary, into.boundary + into.count))
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    if config is not None and not hasattr(config, TAKES_TOKENS):
        kind = str(getattr(config.peft_type, "value", config.peft_type)).lower()
        raise Unsupported(
            f"PEFT has no place for new rows beside {kind}. Take the run's final/ as it is, which Holdfast loads, or, "
            "where the adapter can be merged, a plain model (`--merge`)."
        )
    names = _names(model)
    twin = copy.deepcopy(model)
    plain: Any = twin.unload() if isinstance(twin, PeftModel) else twin
    fold(plain)
    if config is None:
        alone: PeftModel = get_peft_model(plain, TrainableTokensConfig(token_indices=ids, target_modules=names))
        return alone
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    told = copy.deepcopy(config)
    setattr(told, TAKES_TOKENS, dict.fromkeys(names, ids))
    made: PeftModel = get_peft_model(plain, told)
    set_peft_model_state_dict(made, {**get_peft_model_state_dict(made, save_embedding_layers=False), **state})
    return made


def _names(model: Any) -> list[str]:
    """The last parts of the paths of embedding and, untied, head; PEFT lets a tied head follow."""
    wanted = sides(model)[: 1 if is_tied(model) else 2]
    paths = {id(module): path for path, module in model.named_modules()}
    return [paths[id(module)].rpartition(".")[2] for module in wanted]
