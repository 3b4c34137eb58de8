"""The guide "frozen & adaptive update": every name is there, with the guide's arguments and defaults."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from holdfast.llm import (
    FrozenConfig,
    LLMConfig,
    ParameterImportance,
    UpdateStrategy,
    create_frozen_config,
    create_llm_config,
    get_preset_configs,
)
from tests.guides.printed import EMPTY, check_signature

NONE = None
SIGNATURES: dict[str, dict[str, Any]] = {
    "LLMConfig": {
        "backend": "huggingface",
        "model_name": "Qwen/Qwen-7B-Chat",
        "device": "auto",
        "max_length": 512,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 50,
        "do_sample": True,
        "torch_dtype": "auto",
        "use_cache": True,
        "model_path": NONE,
        "api_key": NONE,
        "api_base": NONE,
        "pad_token_id": NONE,
        "eos_token_id": NONE,
    },
    "LLMResponse": {"text": EMPTY, "confidence": NONE, "reasoning": ""},
    "create_llm_config": {"backend": "huggingface", "model_name": "Qwen/Qwen-7B-Chat", "kwargs": EMPTY},
    "create_llm": {"config": EMPTY},
    "FrozenConfig": {
        "strategy": UpdateStrategy.ADAPTIVE,
        "adaptive_learning_rate": True,
        "min_learning_rate": 1e-6,
        "max_learning_rate": 1e-3,
        "importance_threshold": 0.1,
        "update_frequency": 100,
        "performance_window": 50,
        "rollback_threshold": 0.05,
    },
    "create_frozen_config": {
        "strategy": "adaptive",
        "frozen_layers": NONE,
        "frozen_parameters": NONE,
        "kwargs": EMPTY,
    },
    "FrozenAdaptiveLLM": {"base_llm": EMPTY, "config": NONE},
    "FrozenAdaptiveLLM.generate": {"prompt": EMPTY, "kwargs": EMPTY},
    "FrozenAdaptiveLLM.get_parameters": {},
    "FrozenAdaptiveLLM.freeze_parameters": {"parameter_names": EMPTY},
    "FrozenAdaptiveLLM.unfreeze_parameters": {"parameter_names": EMPTY},
    "FrozenAdaptiveLLM.freeze_layers": {"layer_names": EMPTY},
    "FrozenAdaptiveLLM.unfreeze_layers": {"layer_names": EMPTY},
    "FrozenAdaptiveLLM.analyze_and_update_importance": {"gradients": EMPTY},
    "FrozenAdaptiveLLM.should_update_parameter": {"name": EMPTY, "importance": NONE},
    "FrozenAdaptiveLLM.update_parameters": {"gradients": EMPTY, "performance_metric": NONE},
    "FrozenAdaptiveLLM.get_parameter_info": {},
    "FrozenAdaptiveLLM.get_update_history": {},
    "FrozenAdaptiveLLM.get_performance_stats": {},
    "FrozenAdaptiveLLM.save_checkpoint": {"path": EMPTY},
    "FrozenAdaptiveLLM.rollback_to_checkpoint": {"path": EMPTY},
    "FrozenAdaptiveLLM.export_config": {"path": EMPTY},
    "FrozenAdaptiveManager": {},
    "FrozenAdaptiveManager.register_model": {"model_id": EMPTY, "base_llm": EMPTY, "config": NONE},
    "FrozenAdaptiveManager.get_model": {"model_id": EMPTY},
    "FrozenAdaptiveManager.remove_model": {"model_id": EMPTY},
    "FrozenAdaptiveManager.list_models": {},
    "FrozenAdaptiveManager.get_model_stats": {"model_id": EMPTY},
    "AdaptiveLearningRate": {"initial_lr": 1e-4, "min_lr": 1e-6, "max_lr": 1e-3},
    "AdaptiveLearningRate.update": {"performance_metric": EMPTY},
    "AdaptiveLearningRate.get_lr": {},
    "AdaptiveLearningRate.reset": {},
    "ParameterImportanceAnalyzer": {},
    "ParameterImportanceAnalyzer.analyze_importance": {"parameters": EMPTY, "gradients": EMPTY},
    "ParameterImportanceAnalyzer.get_cached_importance": {"name": EMPTY},
    "ParameterImportanceAnalyzer.get_sensitivity": {"name": EMPTY},
    "ParameterInfo": {
        "name": EMPTY,
        "shape": EMPTY,
        "importance": ParameterImportance.LOW,
        "frozen": False,
        "last_update": 0.0,
        "update_count": 0,
        "gradient_norm": 0.0,
        "sensitivity": 0.0,
    },
    "UpdateHistory": {
        "timestamp": EMPTY,
        "parameter_name": EMPTY,
        "old_value": EMPTY,
        "new_value": EMPTY,
        "learning_rate": EMPTY,
        "performance_change": EMPTY,
        "strategy": EMPTY,
    },
    "create_frozen_adaptive_llm": {"base_llm": EMPTY, "strategy": "adaptive", "kwargs": EMPTY},
    "create_frozen_adaptive_manager": {},
    "get_preset_configs": {},
}


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_every_name_takes_what_the_guide_gives_it(name: str) -> None:
    check_signature(name, SIGNATURES[name])


def test_the_names_of_strategies_and_levels() -> None:
    assert [s.value for s in UpdateStrategy] == ["frozen", "adaptive", "selective", "incremental", "gradual"]
    assert [s.value for s in ParameterImportance] == ["critical", "important", "moderate", "low"]
    assert {f.name for f in fields(FrozenConfig)} >= {"frozen_layers", "frozen_parameters"}
    assert FrozenConfig().frozen_layers == FrozenConfig().frozen_parameters == []
    assert {type(c) for c in (LLMConfig(), create_llm_config("mock"))} == {LLMConfig}


def test_the_presets_are_those_of_the_original() -> None:
    presets = get_preset_configs()
    assert presets["conservative"] == create_frozen_config(
        "selective", ["embedding", "encoder"], max_learning_rate=1e-4, importance_threshold=0.2
    )
    assert presets["aggressive"] == create_frozen_config(min_learning_rate=1e-5, importance_threshold=0.05)
    assert presets["balanced"] == create_frozen_config("gradual", ["embedding"])
    everything = ["embedding", "encoder", "decoder"]
    assert presets["frozen"] == create_frozen_config("frozen", everything, adaptive_learning_rate=False)
    assert len(presets) == 4
