"""Several models under names, each with settings of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from torch import nn

from holdfast._errors import BadInput, UnknownName
from holdfast.llm.backends.base import BaseLLM
from holdfast.llm.config import FrozenConfig
from holdfast.llm.frozen_adaptive import FrozenAdaptiveLLM


class FrozenAdaptiveManager:
    """Keeps FrozenAdaptiveLLMs by id; safe to use from several threads.

    >>> FrozenAdaptiveManager().list_models()
    []
    """

    def __init__(self) -> None:
        self._models: dict[str, FrozenAdaptiveLLM] = {}
        self._lock = threading.Lock()

    def register_model(
        self, model_id: str, base_llm: BaseLLM | nn.Module | Mapping[str, Any], config: FrozenConfig | None = None
    ) -> FrozenAdaptiveLLM:
        """Wrap a model and keep it; raises BadInput for an id that is taken."""
        with self._lock:
            if model_id in self._models:
                raise BadInput(f"There is a model {model_id!r} already. Remove it first, or choose another id.")
            self._models[model_id] = FrozenAdaptiveLLM(base_llm, config)
            return self._models[model_id]

    def get_model(self, model_id: str) -> FrozenAdaptiveLLM | None:
        """The model of that id, or None."""
        with self._lock:
            return self._models.get(model_id)

    def remove_model(self, model_id: str) -> bool:
        """Give a model back as it was found; False where there is none of that id."""
        with self._lock:
            model = self._models.pop(model_id, None)
        if model is not None:
            model.close()
        return model is not None

    def list_models(self) -> list[str]:
        """All ids, in the order they were registered."""
        with self._lock:
            return list(self._models)

    def get_model_stats(self, model_id: str) -> dict[str, Any]:
        """model_id, config, parameter_info, performance_stats, update_history_count; raises UnknownName."""
        model = self.get_model(model_id)
        if model is None:
            raise UnknownName("model", model_id, self.list_models())
        return {
            "model_id": model_id,
            "config": model.config,
            "parameter_info": model.get_parameter_info(),
            "performance_stats": model.get_performance_stats(),
            "update_history_count": len(model.get_update_history()),
        }


def create_frozen_adaptive_manager() -> FrozenAdaptiveManager:
    """An empty manager."""
    return FrozenAdaptiveManager()
