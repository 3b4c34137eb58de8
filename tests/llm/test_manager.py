"""Several models under ids: kept apart, refused twice, given back."""

from __future__ import annotations

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.llm import create_frozen_adaptive_manager, create_frozen_config, create_llm, create_llm_config

GRADIENTS = {"embedding_weights": [1.0, 2.0, 3.0]}


def test_models_are_kept_apart() -> None:
    manager = create_frozen_adaptive_manager()
    first = manager.register_model("a", create_llm(create_llm_config("mock")), create_frozen_config("frozen"))
    second = manager.register_model("b", create_llm(create_llm_config("mock")))
    assert manager.list_models() == ["a", "b"]
    assert manager.get_model("a") is first and manager.get_model("b") is second and manager.get_model("c") is None
    assert not first.update_parameters(GRADIENTS, 0.5) and second.update_parameters(GRADIENTS, 0.6)
    stats = {name: manager.get_model_stats(name) for name in ("a", "b")}
    assert [stats[name]["performance_stats"]["current_performance"] for name in "ab"] == [0.5, 0.6]
    assert [stats[name]["update_history_count"] for name in "ab"] == [0, 1]
    assert stats["a"]["config"] == first.config and stats["a"]["model_id"] == "a"
    assert list(stats["a"]["parameter_info"]) == ["embedding_weights", "attention_weights", "output_weights"]


def test_two_models_may_share_one_base_and_keep_their_own_best() -> None:
    base, manager = create_llm(create_llm_config("mock")), create_frozen_adaptive_manager()
    first, second = manager.register_model("a", base), manager.register_model("b", base)
    start = base.get_parameters()["embedding_weights"]
    first.update_parameters(GRADIENTS, 0.5)
    between = base.get_parameters()["embedding_weights"]
    second.update_parameters(GRADIENTS, 0.9)
    assert second.rollback_to_checkpoint("best_checkpoint.pkl")
    assert base.get_parameters()["embedding_weights"].equal(between)
    assert first.rollback_to_checkpoint("best_checkpoint.pkl")
    assert base.get_parameters()["embedding_weights"].equal(start)


def test_an_id_is_taken_once_and_removing_gives_the_model_back() -> None:
    manager, base = create_frozen_adaptive_manager(), create_llm(create_llm_config("mock"))
    manager.register_model("a", base, create_frozen_config(frozen_layers=["embedding"]))
    with pytest.raises(BadInput, match="already"):
        manager.register_model("a", base)
    assert not base.model.get_parameter("embedding_weights").requires_grad
    assert manager.remove_model("a") is True and manager.remove_model("a") is False
    assert all(p.requires_grad for p in base.model.parameters())
    assert manager.list_models() == []
    with pytest.raises(UnknownName, match="model 'a'"):
        manager.get_model_stats("a")
