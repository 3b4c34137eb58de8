"""Prompts that are learnt: virtual tokens before the text, or keys and values of their own in every layer."""

from __future__ import annotations

import logging
from typing import Any

import torch
from peft import (
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptEncoderReparameterizationType,
    PromptTuningConfig,
    PromptTuningInit,
    initialize_kv_prefix_from_past_key_values,
)
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.wrapping import on_meta, wrapped
from holdfast.data.quiet import quiet
from holdfast.data.rows import tokens as encoded

logger = logging.getLogger(__name__)


@methods.register("prompt", Traits(rate=100.0, merges=False, continues=False, kind="PROMPT_TUNING"))
def prompt(
    model: PreTrainedModel,
    *,
    tokens: int = 20,
    text: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> PeftModel:
    """Prompt tuning: the embeddings of `tokens` virtual tokens before every input are all that trains.

    They start as the embeddings of `text`, over and over where it is shorter, or of tokens drawn from the vocabulary.
    The model does not start as the base: it reads the prompt from the first step on. Raises BadInput for no tokens, and
    for a text without a tokenizer. Lester et al. (2021), arXiv:2104.08691.
    """
    _check(tokens, "prompt", model)
    settings = {"num_virtual_tokens": tokens, "prompt_tuning_init": PromptTuningInit.SAMPLE_VOCAB}
    made = wrapped(model, PromptTuningConfig, settings, seed)
    if text is not None and not on_meta(model):
        encoder: Any = made.prompt_encoder
        weight = encoder["default"].embedding.weight
        with torch.no_grad():
            weight.copy_(_embedded(model, text, tokenizer, len(weight)))
    return made


@methods.register("ptuning", Traits(rate=100.0, merges=False, continues=False, kind="P_TUNING"))
def ptuning(
    model: PreTrainedModel,
    *,
    tokens: int = 20,
    encoder: str = "MLP",
    hidden: int = 128,
    seed: int = 0,
) -> PeftModel:
    """P-tuning: virtual tokens as in `prompt`, which a small network (`MLP` or `LSTM`, `hidden` wide) makes.

    Raises BadInput for settings out of range. Liu et al. (2021), arXiv:2103.10385.
    """
    _check(min(tokens, hidden), "ptuning", model, tokens)
    if encoder not in PromptEncoderReparameterizationType.__members__:
        raise BadInput(f"ptuning: the encoder is MLP or LSTM, not {encoder!r}.")
    settings = {
        "num_virtual_tokens": tokens,
        "encoder_hidden_size": hidden,
        "encoder_reparameterization_type": PromptEncoderReparameterizationType[encoder],
    }
    return wrapped(model, PromptEncoderConfig, settings, seed)


@methods.register(
    "ptuning2", Traits(rate=100.0, checkpointing=False, merges=False, continues=False, kind="PREFIX_TUNING")
)
def ptuning2(
    model: PreTrainedModel,
    *,
    tokens: int = 20,
    text: str | None = None,
    projection: bool = False,
    hidden: int = 128,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> PeftModel:
    """P-tuning v2, which is prefix tuning: every layer attends to `tokens` keys and values of its own.

    They start as those that the base makes of `text`, over and over where it is shorter, or of tokens drawn from the
    vocabulary: drawn at random themselves they wreck what the base says. With `projection` a network `hidden` wide
    makes them, and they do start at random. They reach the layers through the cache, which gradient
    checkpointing would drop, so that is switched off. Raises BadInput for settings out of range and for models without
    a cache (encoders). Liu et al. (2022), arXiv:2110.07602; Li and Liang (2021), arXiv:2101.00190.
    """
    _check(min(tokens, hidden), "ptuning2", model, tokens)
    if getattr(model, "is_gradient_checkpointing", False):
        model.gradient_checkpointing_disable()  # type: ignore[no-untyped-call]
        logger.warning("ptuning2 and gradient checkpointing exclude each other; checkpointing was switched off.")
    settings = {"num_virtual_tokens": tokens, "prefix_projection": projection, "encoder_hidden_size": hidden}
    made = wrapped(model, PrefixTuningConfig, settings, seed)
    if not projection and not on_meta(model) and not model.config.is_encoder_decoder:
        ids = _drawn(model, text, tokenizer, tokens, seed)
        with quiet(model), made.disable_adapter():
            cache = model(input_ids=ids[None], use_cache=True).past_key_values
        initialize_kv_prefix_from_past_key_values(made, past_key_values=cache)
    return made


def _check(least: int, name: str, model: PreTrainedModel, tokens: int | None = None) -> None:
    if least < 1:
        raise BadInput(f"{name}: `tokens` and `hidden` are at least 1.")
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    asked = tokens or least
    if room is not None and asked > room // 2:
        raise BadInput(f"{name}: the model has {room} positions; {asked} virtual tokens leave too few for text.")


def _drawn(model: Any, text: str | None, tokenizer: PreTrainedTokenizerBase | None, count: int, seed: int) -> Tensor:
    """Ids [count] of a text's tokens, in turns, or drawn from the vocabulary."""
    if text is not None:
        return _repeated(text, tokenizer, count).to(model.device)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.get_text_config().vocab_size, (count,), generator=generator).to(model.device)


def _repeated(text: str, tokenizer: PreTrainedTokenizerBase | None, count: int) -> Tensor:
    ids = [] if tokenizer is None else encoded(tokenizer, text)
    if not ids:
        raise BadInput("A start from `text` takes a tokenizer and a text that has tokens.")
    return torch.tensor((ids * (count // len(ids) + 1))[:count])


def _embedded(model: Any, text: str, tokenizer: PreTrainedTokenizerBase | None, count: int) -> Tensor:
    """Embeddings [count, width] of a text's tokens, in turns."""
    embedded: Tensor = model.get_input_embeddings()(_repeated(text, tokenizer, count).to(model.device))
    return embedded
