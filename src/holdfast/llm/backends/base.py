"""What every backend is: something that answers prompts and may own parameters; its settings and its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from holdfast._errors import BadInput, UnknownName
from holdfast._registry import Registry
from holdfast.llm.lock import SharedLock
from holdfast.llm.places import by_path
from holdfast.loop import attach
from holdfast.params.inventory import inventory
from holdfast.params.weights import local


@dataclass(frozen=True)
class LLMConfig:
    """Settings of a backend.

    `backend`: huggingface, tiny, openai or mock. `model_name`: a folder or Hub id (`openai`: the name that the endpoint
    knows); `model_path`, a folder, goes before it. `device`: auto, cpu, cuda …; `torch_dtype`: auto (float32),
    float32, bfloat16 or float16. `max_length`: most tokens of prompt and answer together (`openai`: of the answer).
    `do_sample`, `temperature`, `top_p`, `top_k`: how tokens are drawn, from a source of randomness that starts at
    `seed`; `use_cache`: whether generation keeps keys and values. `pad_token_id`, `eos_token_id`: instead of the
    tokenizer's. `api_key`, `api_base`, `timeout` (seconds): the endpoint of `openai`.
    """

    backend: str = "huggingface"
    model_name: str = "Qwen/Qwen-7B-Chat"
    device: str = "auto"
    max_length: int = 512
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50
    do_sample: bool = True
    torch_dtype: str = "auto"
    use_cache: bool = True
    model_path: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_base: str | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    seed: int = 0
    timeout: float = 60.0
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not (self.temperature > 0 or not self.do_sample):
            raise BadInput(f"temperature is above 0, not {self.temperature}; the likeliest token: do_sample=False.")
        if self.max_length < 2 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise BadInput("LLMConfig needs max_length >= 2, 0 < top_p <= 1 and top_k >= 0 (0: all tokens).")


@dataclass(frozen=True)
class LLMResponse:
    """An answer. `confidence` is the mean probability of its tokens, in [0, 1], or None where it cannot be known."""

    text: str
    confidence: float | None = None
    reasoning: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


class BaseLLM(ABC):
    """Answers prompts; `model` owns its parameters. `lock` keeps readers of them and their writer apart."""

    def __init__(self, config: LLMConfig):
        self.config = config
        self.lock = SharedLock()

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The module that owns the parameters; raises Unsupported where they are out of reach."""

    @cached_property
    def trainable(self) -> dict[str, nn.Parameter]:
        """What could move before anybody froze anything, by path."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @abstractmethod
    def generate(self, prompt: str, **kwargs: Any) -> LLMResponse:
        """Answer a prompt; keyword arguments stand in for settings of the configuration for this once."""

    def get_parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters by path."""
        with self.lock.reading():
            return {name: local(p).clone() for name, p in self.model.named_parameters()}

    def update_parameters(self, gradients: Mapping[str, Any], learning_rate: float = 1e-4) -> dict[str, Tensor]:
        """One plain step, p - learning_rate * g; returns copies of what was given a gradient."""
        with self.lock.writing():
            given = by_path(inventory(self.model), gradients)
            optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=learning_rate)
            with attach([], self.model, optimizer) as run:
                run.advance(gradients=given)
            return {path: local(self.model.get_parameter(path)).clone() for path in given}


backends: Registry[Any] = Registry("backend")
"""Every backend by name: functions (LLMConfig) -> BaseLLM."""


def create_llm_config(backend: str = "huggingface", model_name: str = "Qwen/Qwen-7B-Chat", **kwargs: Any) -> LLMConfig:
    """An LLMConfig; further arguments are its fields. Raises UnknownName for a backend or a field there is not.

    >>> create_llm_config("mock", "my_model", max_length=32).max_length
    32
    """
    _check(kwargs)
    if backend not in backends.names():
        raise UnknownName("backend", backend, backends.names())
    return LLMConfig(backend, model_name, **kwargs)


def create_llm(config: LLMConfig) -> BaseLLM:
    """The model that a configuration asks for, loaded; raises what its backend raises."""
    made: BaseLLM = backends[config.backend](config)
    return made


def asked(config: LLMConfig, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one answer: those of the configuration, and what is asked for instead."""
    _check(kwargs)
    return {**{f.name: getattr(config, f.name) for f in fields(LLMConfig)}, **kwargs}


def _check(kwargs: Mapping[str, Any]) -> None:
    known = [f.name for f in fields(LLMConfig)]
    for name in kwargs:
        if name not in known:
            raise UnknownName("setting of an LLMConfig called", name, known)
