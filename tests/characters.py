"""A tokenizer of single characters for the random models, and such models as folders."""

from __future__ import annotations

import copy
import string
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from holdfast.base import Base
from tests.models import build

TURNS = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}a:{% endif %}"
"""A chat template in few characters."""


def tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """One token for each character: ids below 96, of which 0 to 3 are pad, BOS, EOS and unknown."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *string.ascii_letters, *string.digits, *" \n.,;:!?'\"-()"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    core.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    made.chat_template = TEMPLATE if chat else None
    return made


def base(arch: str = "llama", *, chat: bool = False, model: Any = None, **settings: Any) -> Base:
    """A lively random model (or the one given) with that tokenizer."""
    return Base(lively(arch, **settings) if model is None else model, tokenizer(chat=chat), arch, "0" * 64)


def lively(arch: str = "llama", *, seed: int = 0) -> Any:
    """A random model with a head of its own and weights so large that it does not say the same letter for ever."""
    model = build(arch, tied=False, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 0.4 / parameter.std()
    return model


def base_folder(folder: Path, arch: str = "llama", *, chat: bool = False, **settings: Any) -> Path:
    """A random model in Hugging Face's layout."""
    build(arch, **settings).save_pretrained(folder)
    tokenizer(chat=chat).save_pretrained(folder)
    return folder


def stirred(model: Any, config: Any, std: float = 0.1, seed: int = 0) -> PeftModel:
    """The model with an adapter whose weights are not those that it starts with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = get_peft_model(model, copy.deepcopy(config))  # PEFT writes into it
        for name, parameter in made.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.data += std * torch.randn_like(parameter)
    return made.eval()
