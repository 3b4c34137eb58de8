"""The guide "frozen & adaptive update": every block as printed, and what the text promises after it."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.llm import (
    FrozenAdaptiveLLM,
    ParameterInfo,
    UpdateHistory,
    create_frozen_config,
    create_llm,
    create_llm_config,
    get_preset_configs,
)
from tests.guides.printed import fenced, handed_over, run

HERE = Path(__file__).parent
PRINTED = (HERE / "frozen-adaptive-update.txt").read_text("utf-8")
STATISTICS = {
    "current_performance",
    "average_performance",
    "performance_trend",
    "performance_std",
    "update_count",
    "current_learning_rate",
}


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs blocks of the guide, in order and in one namespace, with only the import root changed."""
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger().level
    space: dict[str, Any] = {"num_epochs": 3, "evaluate_model": lambda: 0.9}
    for i in (1, 2):
        space |= {f"base_llm{i}": create_llm(create_llm_config("mock")), f"config{i}": create_frozen_config()}
    space["compute_gradients"] = lambda: space["gradients"]

    def blocks(*numbers: int) -> dict[str, Any]:
        for number in numbers:
            block = fenced(PRINTED)[number - 1]
            run(
                re.sub(r"from sandgraph\.core\.\w+ import", "from holdfast.llm import", block), space, f"block {number}"
            )
        return space

    yield blocks
    logging.getLogger().setLevel(level)


def test_the_printed_blocks_are_those_of_the_guide() -> None:
    assert fenced(PRINTED) == fenced(handed_over("frozen-adaptive-update.md"))
    assert len(fenced(PRINTED)) == 16


def test_block_1_answers_with_a_confidence_that_was_computed(guide: Any, capsys: pytest.CaptureFixture[str]) -> None:
    space = guide(1)
    assert 0 < space["response"].confidence < 1
    assert capsys.readouterr().out.startswith("响应: [mock] ")


def test_blocks_2_and_3_move_what_was_thawed_last_and_nothing_else(
    guide: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    space = guide(1, 2)
    assert {n: i.frozen for n, i in space["param_info"].items()} == {
        "embedding_weights": False,
        "attention_weights": True,
        "output_weights": False,
    }
    space = guide(3)
    assert list(space["updated_params"]) == ["embedding_weights"]
    assert "更新了 1 个参数" in capsys.readouterr().out
    before, now = space["parameters"], space["base_llm"].get_parameters()
    assert torch.equal(before["attention_weights"], now["attention_weights"])
    assert torch.equal(before["output_weights"], now["output_weights"])
    expected = before["embedding_weights"] - 1e-4 * torch.tensor(space["gradients"]["embedding_weights"])
    assert torch.allclose(now["embedding_weights"], expected, rtol=0, atol=1e-7)
    assert torch.equal(space["updated_params"]["embedding_weights"], now["embedding_weights"])


def test_block_4_prints_statistics(guide: Any, capsys: pytest.CaptureFixture[str]) -> None:
    space = guide(1, 2, 3, 4)
    assert set(space["stats"]) == STATISTICS
    assert "当前性能: 0.850\n平均性能: 0.850\n性能趋势: +0.000\n当前学习率: 1.00e-04" in capsys.readouterr().out


def test_blocks_5_and_6_presets_and_manager(guide: Any) -> None:
    space = guide(1, 5, 6)
    assert space["frozen_llm"].config == get_preset_configs()["aggressive"]
    assert space["manager"].list_models() == ["model1", "model2"]
    assert space["model"] is space["frozen_llm1"]
    assert set(space["stats"]) == {
        "model_id",
        "config",
        "parameter_info",
        "performance_stats",
        "update_history_count",
    }


def test_block_7_saves_under_that_name_and_block_8_exports(guide: Any, capsys: pytest.CaptureFixture[str]) -> None:
    space = guide(1, 2, 3, 7, 8)
    assert space["success"] is True and "成功回滚到检查点" in capsys.readouterr().out
    assert Path("model_checkpoint.pkl").is_file()
    told = json.loads(Path("model_config.json").read_text("utf-8"))
    assert told["frozen_config"]["strategy"] == "adaptive"
    assert set(told["parameter_info"]["embedding_weights"]) == {"importance", "frozen", "update_count", "sensitivity"}
    kept = space["base_llm"].get_parameters()
    space["frozen_llm"].update_parameters({"embedding_weights": [9.0, 9.0, 9.0]})
    assert not torch.equal(kept["embedding_weights"], space["base_llm"].get_parameters()["embedding_weights"])
    assert space["frozen_llm"].rollback_to_checkpoint("model_checkpoint.pkl") is True
    assert all(torch.equal(kept[name], value) for name, value in space["base_llm"].get_parameters().items())


def test_blocks_9_to_13_configure_each_strategy(guide: Any) -> None:
    wanted = ["frozen", "adaptive", "selective", "incremental", "gradual"]
    guide(1)
    assert [guide(number)["config"].strategy.value for number in range(9, 14)] == wanted
    assert guide(11)["config"].importance_threshold == 0.2 and guide(12)["config"].update_frequency == 100


def test_block_14_prints_levels_that_were_measured(guide: Any, capsys: pytest.CaptureFixture[str]) -> None:
    space = guide(1, 2, 3, 14)
    levels = {name: level.value for name, level in space["importance_scores"].items()}
    assert levels == {"embedding_weights": "critical", "attention_weights": "low"}
    assert "embedding_weights:\n  重要性: critical\n  敏感性: 0.033\n  梯度范数: 0.037" in capsys.readouterr().out


def test_block_15_trains_and_finds_the_automatic_best_under_its_name(
    guide: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    space = guide(1, 2, 3)
    falling = iter([0.84, 0.83, 0.81])  # never 0.05 below the best, so nothing goes back by itself
    space["evaluate_model"] = lambda: next(falling)
    guide(15)
    assert "性能下降" not in capsys.readouterr().out
    last = space["base_llm"].get_parameters()["embedding_weights"]
    assert space["frozen_llm"].rollback_to_checkpoint("best_checkpoint.pkl") is True
    best = space["base_llm"].get_parameters()["embedding_weights"]
    assert torch.equal(best, space["parameters"]["embedding_weights"]) and not torch.equal(best, last)
    assert space["frozen_llm"].get_performance_stats()["current_performance"] == 0.85

    space["frozen_llm"] = FrozenAdaptiveLLM(space["base_llm"], create_frozen_config(rollback_threshold=math.inf))
    falling = iter([0.9, 0.8, 0.7])
    guide(15)
    assert capsys.readouterr().out.count("性能下降，考虑回滚") == 2
    assert space["frozen_llm"].get_performance_stats()["current_performance"] == 0.9


def test_block_16_lists_frozen_parameters_and_history(guide: Any, capsys: pytest.CaptureFixture[str]) -> None:
    space = guide(1, 2, 3, 16)
    assert "冻结参数: attention_weights\n更新历史数量: 1" in capsys.readouterr().out
    (entry,) = space["history"]
    assert isinstance(entry, UpdateHistory) and entry.parameter_name == "embedding_weights"
    assert all(isinstance(info, ParameterInfo) for info in space["param_info"].values())
