"""The framework's settings: the guide's keys and defaults, filled up where little is said, refused where wrong."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.llm.continual_settings import continual_settings

GUIDE: dict[str, Any] = {
    "replay": {"enabled": True, "buffer_size": 10000, "replay_ratio": 0.2, "prioritization": True},
    "regularization": {"enabled": True, "method": "ewc", "lambda": 1e4, "fisher_sample_size": 1000},
    "parameter_isolation": {
        "enabled": True,
        "strategy": "freeze",
        "freeze_ratio": 0.8,
        "adapter_config": {"type": "lora", "r": 8, "alpha": 16},
    },
    "evaluation": {
        "enabled": True,
        "metrics": ["knowledge_retention", "task_performance", "forgetting_rate"],
        "eval_interval": 100,
    },
}


def within(part: Any, whole: Any) -> bool:
    """Whether all that `part` says stands in `whole`."""
    if isinstance(part, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    return bool(part == whole)


def test_the_defaults_are_the_guides() -> None:
    found = continual_settings(None).plain()
    assert within(GUIDE, found) and list(found) == list(GUIDE)
    assert continual_settings({}).plain() == continual_settings(GUIDE).plain() == found


def test_what_is_not_said_has_its_default_at_every_depth() -> None:
    found = continual_settings({"parameter_isolation": {"adapter_config": {"r": 4}}, "replay": {"enabled": False}})
    assert found.plain()["parameter_isolation"] == {
        **continual_settings(None).plain()["parameter_isolation"],
        "adapter_config": {"type": "lora", "r": 4, "alpha": 16.0, "target_modules": None, "dropout": 0.05},
    }
    assert found.replay.buffer_size == 10000 and not found.replay.enabled


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        ({"replai": {}}, UnknownName, "'replai'. Did you mean 'replay'"),
        ({"replay": {"ratio": 0.3}}, UnknownName, "replay.replay_ratio"),
        ({"parameter_isolation": {"adapter_config": {"rank": 3}}}, UnknownName, "adapter_config.r"),
        ({"evaluation": {"metrics": ["forgeting_rate"]}}, UnknownName, "Did you mean 'forgetting_rate'"),
        ({"replay": {"replay_ratio": 1.0}}, BadInput, "`replay.replay_ratio` cannot be used"),
        ({"replay": {"buffer_size": 0}}, BadInput, "buffer_size"),
        ({"regularization": {"method": "mas"}}, BadInput, "regularization.method"),
        ({"regularization": {"lambda": -1}}, BadInput, "regularization.lambda"),
        ({"parameter_isolation": {"strategy": "thaw"}}, BadInput, "'freeze' or 'adapter'"),
        ({"evaluation": {"eval_interval": 0}}, BadInput, "eval_interval"),
        ({"evaluation": 3}, BadInput, "`evaluation` cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(config: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        continual_settings(config)
