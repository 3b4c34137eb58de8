"""A PEFT config put on a model: seeded, for the task that the model is made for, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.targets import check_names
from holdfast.vocabulary.rows import counted_as_before

TASKS = (
    ("ForSequenceClassification", "SEQ_CLS"),
    ("ForTokenClassification", "TOKEN_CLS"),
    ("ForQuestionAnswering", "QUESTION_ANS"),
)
"""How the names of transformers' classes end, and PEFT's names of their tasks."""


def wrapped(model: Any, make: Callable[..., PeftConfig], settings: Mapping[str, Any], seed: int) -> PeftModel:
    """The model with the adapter of `make(**settings)`, drawn from `seed`; no other random state moves.

    Raises UnmatchedSelect for names that match nothing, BadInput, with PEFT's reason, for settings that PEFT refuses,
    and Unplanned for a model on the meta device where the method computes from its values.
    """
    check_names(model, settings)
    try:
        config: Any = make(**{"task_type": task_type(model), **settings})
        if fresh := getattr(model, "fresh", []):  # a classifier's parts that have no values of a base
            config.modules_to_save = [*(getattr(config, "modules_to_save", None) or ()), *fresh]
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            torch.manual_seed(seed)
            with counted_as_before(model):
                made: PeftModel = get_peft_model(model, config)
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        if isinstance(error, NotImplementedError) and on_meta(model):
            raise Unplanned(
                f"{make.__name__} computes from weights, so what it adds is known once they are loaded."
            ) from error
        raise BadInput(f"PEFT does not take these settings of {make.__name__} on this model: {error}") from error
    return aligned(made)


class Unplanned(Unsupported):
    """A method that computes from the values of a model, of which only names and shapes are there yet."""


def aligned(model: PeftModel) -> PeftModel:
    """The same model; where it puts virtual tokens before the text, its logits are those of the text alone.

    So they stand where the labels stand, as everywhere else.
    """
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        model.register_forward_hook(_of_the_text, with_kwargs=True)
    return model


def _of_the_text(model: Any, args: Any, given: dict[str, Any], outputs: Any) -> Any:
    text, logits = given.get("input_ids"), getattr(outputs, "logits", None)
    if text is not None and logits is not None and logits.ndim == 3 and logits.shape[1] > text.shape[1]:
        outputs.logits = logits[:, -text.shape[1] :]
    return outputs


def task_type(model: nn.Module) -> str | None:
    """PEFT's name of the task that a transformers model is made for, None where it has no name."""
    kind = type(model).__name__
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return "SEQ_2_SEQ_LM"
    named = next((task for ending, task in TASKS if kind.endswith(ending)), None)
    return named or ("CAUSAL_LM" if callable(getattr(model, "prepare_inputs_for_generation", None)) else None)


def transposed(model: nn.Module, names: list[str]) -> bool:
    """Whether the targets store their weights [in, out], as GPT-2's Conv1D does."""
    return any(isinstance(model.get_submodule(name), Conv1D) for name in names)


def encoded(model: Any) -> bool:
    """Whether a network makes the prompt of a model (P-tuning, a projected prefix), of which PEFT saves the prompt."""
    configs = getattr(model, "peft_config", {}).values()
    return any(c.is_prompt_learning and getattr(c, "encoder_hidden_size", None) and _networked(c) for c in configs)


def _networked(config: Any) -> bool:
    return bool(getattr(config, "prefix_projection", False)) or hasattr(config, "encoder_reparameterization_type")


def on_meta(model: nn.Module) -> bool:
    """Whether a model has names and shapes but no values, as when a run is planned."""
    return any(parameter.is_meta for parameter in model.parameters())
