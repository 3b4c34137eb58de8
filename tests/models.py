"""Random models of every supported architecture, built from a config in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

ARCHITECTURES = ("llama", "qwen2", "gpt2", "gpt_neox", "opt", "bert", "t5")
VOCABULARY, WIDTH, INNER, LAYERS, HEADS, LENGTH = 96, 16, 32, 3, 2, 64
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def config(arch: str, *, tied: bool = True, dropout: float = 0.0) -> Any:
    """The config of one architecture: vocabulary 96, width 16, inner width 32, 3 blocks, 2 heads, length 64."""
    return _CONFIGS[arch](dropout, {"vocab_size": VOCABULARY, "tie_word_embeddings": tied, **SPECIAL})


def build(arch: str, *, tied: bool = True, dropout: float = 0.0, seed: int = 0) -> Any:
    """A random float32 model in evaluation mode; `lora` is a Llama whose MLP carries LoRA factors that are not zero.

    `tied` shares input embedding and head (a T5 config always ties, so its head is parted by hand); `dropout` sets
    every dropout rate that the architecture has. The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if arch == "lora":
            return lora(build("llama", tied=tied, dropout=dropout, seed=seed), seed=seed)
        model: PreTrainedModel = _CLASSES[arch](config(arch, tied=tied, dropout=dropout))
        if arch == "t5" and not tied:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        return model.eval()


def lora(model: Any, *, seed: int = 0, **settings: Any) -> PeftModel:
    """Wrap a model in LoRA (rank 2, alpha 6, MLP targets of a Llama unless told) with random B factors."""
    settings = {"r": 2, "lora_alpha": 6, "target_modules": ["gate_proj", "up_proj", "down_proj"], **settings}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        wrapped = get_peft_model(model, LoraConfig(**settings))
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return wrapped.eval()


def quickly(quick: Sequence[Any], cases: Sequence[Any]) -> list[Any]:
    """Parameters of a test: all cases, of which only the `quick` ones are not marked slow."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def inputs(*, rows: int = 2, length: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random `input_ids` and `labels` [rows, length] that any of the models takes."""
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids.clone()}


def _llama(dropout: float, shared: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        max_position_embeddings=LENGTH,
        attention_dropout=dropout,
        **shared,
    )


def _qwen2(dropout: float, shared: dict[str, Any]) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        max_position_embeddings=LENGTH,
        attention_dropout=dropout,
        **shared,
    )


def _gpt2(dropout: float, shared: dict[str, Any]) -> GPT2Config:
    return GPT2Config(
        n_embd=WIDTH,
        n_inner=INNER,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=LENGTH,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        **shared,
    )


def _gpt_neox(dropout: float, shared: dict[str, Any]) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        **shared,
    )


def _opt(dropout: float, shared: dict[str, Any]) -> OPTConfig:
    return OPTConfig(
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH // 2,
        ffn_dim=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        dropout=dropout,
        attention_dropout=dropout,
        **shared,
    )


def _bert(dropout: float, shared: dict[str, Any]) -> BertConfig:
    return BertConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **shared,
    )


def _t5(dropout: float, shared: dict[str, Any]) -> T5Config:
    return T5Config(
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=INNER,
        num_layers=LAYERS,
        num_heads=HEADS,
        dropout_rate=dropout,
        decoder_start_token_id=0,
        **shared,
    )


_CONFIGS: dict[str, Callable[[float, dict[str, Any]], Any]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bert": _bert,
    "t5": _t5,
}
_CLASSES: dict[str, Any] = {
    "llama": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "gpt2": GPT2LMHeadModel,
    "gpt_neox": GPTNeoXForCausalLM,
    "opt": OPTForCausalLM,
    "bert": BertForMaskedLM,
    "t5": T5ForConditionalGeneration,
}
