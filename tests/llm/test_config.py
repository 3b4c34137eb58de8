"""Settings are checked where they are made, and a written configuration is read back equal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.llm import (
    FrozenAdaptiveLLM,
    FrozenConfig,
    UpdateStrategy,
    create_frozen_config,
    create_llm,
    create_llm_config,
    get_preset_configs,
    load_frozen_config,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_learning_rate": 1e-2},
        {"min_learning_rate": 0.0},
        {"max_learning_rate": math.inf},
        {"importance_threshold": 1.5},
        {"importance_threshold": -0.1},
        {"rollback_threshold": 0.0},
        {"update_frequency": 0},
        {"update_frequency": 2.5},
        {"performance_window": 1},
        {"history_size": 0},
        {"frozen_layers": "embedding"},
        {"frozen_parameters": [3]},
    ],
)
def test_what_cannot_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong)).removesuffix("_learning_rate")):
        FrozenConfig(**wrong)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="adaptive"):
        create_frozen_config("adaptative")
    with pytest.raises(UnknownName, match="rollback_threshold"):
        create_frozen_config(rollback_treshold=0.1)
    with pytest.raises(UnknownName, match="adamw"):
        create_frozen_config(optimizer="adamv")


def test_a_strategy_may_be_given_by_name_or_as_a_member() -> None:
    assert create_frozen_config("gradual") == create_frozen_config(UpdateStrategy.GRADUAL)
    assert FrozenConfig(strategy="gradual").strategy is UpdateStrategy.GRADUAL  # type: ignore[arg-type]


def test_presets_are_fresh_copies() -> None:
    get_preset_configs()["conservative"].frozen_layers.append("decoder")
    assert get_preset_configs()["conservative"].frozen_layers == ["embedding", "encoder"]


@pytest.mark.parametrize("name", ["conservative", "aggressive", "balanced", "frozen"])
def test_an_exported_configuration_reloads_to_an_equal_object(name: str, tmp_path: Path) -> None:
    config = get_preset_configs()[name]
    llm = FrozenAdaptiveLLM(create_llm(create_llm_config("mock")), config)
    assert llm.export_config(tmp_path / "config.json") is True
    assert load_frozen_config(tmp_path / "config.json") == config


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    for text in ("", "[]", '{"frozen_config": 3}', json.dumps({"frozen_config": {"strategies": "frozen"}})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(BadInput):
            load_frozen_config(tmp_path / "config.json")
    with pytest.raises(BadInput, match="is not an exported configuration"):
        load_frozen_config(tmp_path / "nowhere.json")
