"""The guides' objects, thin over the rooms below: every name that a guide prints is importable from here."""

from holdfast.llm.backends import huggingface, mock, module, openai  # noqa: F401
from holdfast.llm.backends.base import BaseLLM, LLMConfig, LLMResponse, create_llm, create_llm_config
from holdfast.llm.config import (
    FrozenConfig,
    UpdateStrategy,
    create_frozen_config,
    get_preset_configs,
    load_frozen_config,
)
from holdfast.llm.frozen_adaptive import FrozenAdaptiveLLM, create_frozen_adaptive_llm
from holdfast.llm.learning_rate import AdaptiveLearningRate
from holdfast.llm.levels import ParameterImportance, ParameterImportanceAnalyzer, ParameterInfo, UpdateHistory
from holdfast.llm.manager import FrozenAdaptiveManager, create_frozen_adaptive_manager

__all__ = [
    "AdaptiveLearningRate",
    "BaseLLM",
    "FrozenAdaptiveLLM",
    "FrozenAdaptiveManager",
    "FrozenConfig",
    "LLMConfig",
    "LLMResponse",
    "ParameterImportance",
    "ParameterImportanceAnalyzer",
    "ParameterInfo",
    "UpdateHistory",
    "UpdateStrategy",
    "create_frozen_adaptive_llm",
    "create_frozen_adaptive_manager",
    "create_frozen_config",
    "create_llm",
    "create_llm_config",
    "get_preset_configs",
    "load_frozen_config",
]
