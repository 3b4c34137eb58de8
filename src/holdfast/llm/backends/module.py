"""Any torch module, or a mapping of arrays, as something that can be frozen and updated; it answers nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import nn

from holdfast._errors import BadInput, Unsupported
from holdfast.llm.backends.base import BaseLLM, LLMConfig


class ModuleLLM(BaseLLM):
    """A module of one's own. Arrays come by name and are copied to float32; `get_parameters` gives their new values."""

    def __init__(self, given: nn.Module | Mapping[str, Any]):
        super().__init__(LLMConfig("module", type(given).__name__))
        self._model = given if isinstance(given, nn.Module) else _module(given)

    @property
    def model(self) -> nn.Module:
        return self._model

    def generate(self, prompt: str, **kwargs: Any) -> NoReturn:
        raise Unsupported("These are bare parameters without a tokenizer: nothing can be generated from them.")


def _module(arrays: Mapping[str, Any]) -> nn.Module:
    """Modules within modules, so that each array stands at the path that its name says."""
    root = nn.Module()
    for name, array in arrays.items():
        try:
            _place(root, name.split("."), torch.as_tensor(array).detach().float().clone())
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            raise BadInput(f"{name!r} cannot be a parameter: {error}.") from error
    return root


def _place(root: nn.Module, path: list[str], value: torch.Tensor) -> None:
    for part in path[:-1]:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.register_parameter(path[-1], nn.Parameter(value))


def as_llm(given: BaseLLM | nn.Module | Mapping[str, Any]) -> BaseLLM:
    """What was given, with the face of a backend."""
    return given if isinstance(given, BaseLLM) else ModuleLLM(given)
