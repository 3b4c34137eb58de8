"""The guide "catastrophic forgetting", chapters 2 and 4 to 7: its names, its blocks, and what its text promises."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from torch import Tensor
from transformers import TrainingArguments

from holdfast import load_base
from holdfast.llm import SimpleImportanceEstimator
from tests.guides.printed import EMPTY, check_signature, copied, handed_over, run, run_with_ours
from tests.llm.training import small

GUIDE = "catastrophic-forgetting.md"
NONE = None
SIGNATURES: dict[str, dict[str, Any]] = {
    "ForgettingDynamicsModel": {"model_size": EMPTY, "initial_knowledge": EMPTY, "forgetting_rate": 0.1},
    "ForgettingDynamicsModel.update_knowledge": {
        "training_intensity": EMPTY,
        "data_similarity": EMPTY,
        "epochs": EMPTY,
    },
    "ForgettingDynamicsModel.get_knowledge_trajectory": {},
    "simulate_forgetting_scenarios": {},
    "L2RegularizedTrainer": {"model": EMPTY, "args": EMPTY, "l2_lambda": 1e-4, "kwargs": EMPTY},
    "EWCTrainer": {"model": EMPTY, "args": EMPTY, "ewc_lambda": 5e4, "fisher_n_samples": 1000, "kwargs": EMPTY},
    "EWCTrainer.compute_fisher": {"dataset": EMPTY, "device": NONE},
    "ReplayDataset": {"primary_dataset": EMPTY, "replay_dataset": EMPTY, "replay_ratio": 0.2},
    "PrioritizedReplayTrainer": {
        "model": EMPTY,
        "args": EMPTY,
        "primary_dataset": EMPTY,
        "replay_dataset": EMPTY,
        "replay_ratio_schedule": NONE,
        "importance_estimator": NONE,
        "kwargs": EMPTY,
    },
    "SimpleImportanceEstimator": {"model": EMPTY, "tokenizer": EMPTY, "importance_criteria": NONE},
    "SimpleImportanceEstimator.estimate_importance": {"data_item": EMPTY},
    "freeze_model_layers": {"model": EMPTY, "freeze_layers_ratio": 0.7},
    "freeze_model_components": {
        "model": EMPTY,
        "freeze_attention": True,
        "freeze_mlp": False,
        "freeze_embeddings": True,
    },
    "apply_lora_adapter": {
        "model": EMPTY,
        "lora_r": 8,
        "lora_alpha": 16,
        "target_modules": NONE,
        "lora_dropout": 0.05,
    },
    "ParallelAdapterManager": {"base_model": EMPTY, "adapter_configs": EMPTY},
    "ParallelAdapterManager.activate_adapter": {"adapter_name": EMPTY},
    "ParallelAdapterManager.train_adapter": {
        "adapter_name": EMPTY,
        "train_dataset": EMPTY,
        "training_args": EMPTY,
        "kwargs": EMPTY,
    },
    "ParallelAdapterManager.save_adapter": {"adapter_name": EMPTY, "save_dir": EMPTY},
    "ParallelAdapterManager.load_adapter": {"adapter_name": EMPTY, "load_dir": EMPTY},
    "LLMContinualLearningFramework": {"base_model": EMPTY, "tokenizer": EMPTY, "config": NONE},
    "LLMContinualLearningFramework.register_task": {"task_id": EMPTY, "dataset": EMPTY, "evaluation_dataset": NONE},
    "LLMContinualLearningFramework.train_task": {
        "task_id": EMPTY,
        "dataset": EMPTY,
        "training_args": EMPTY,
        "kwargs": EMPTY,
    },
    "LLMContinualLearningFramework.generate_stability_report": {"save_path": NONE},
}


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_every_name_takes_what_the_guide_gives_it(name: str) -> None:
    check_signature(name, SIGNATURES[name])


# The blocks of the guide --------------------------------------------------------------------------------------------

RENAMED = {"evaluation_strategy": "eval_strategy", "logging_dir": None}
"""What is called otherwise in transformers 5, or is not there any more; see docs/guides.md."""

SHORT = {"max_steps": 4, "warmup_steps": 0, "learning_rate": 1e-3, "eval_steps": 4, "save_strategy": "no"}
HERE = {"use_cpu": True, "fp16": False, "report_to": "none", "disable_tqdm": True, "logging_steps": 4}

NEW = [{"text": f"The moon is made of cheese, said sailor number {i}."} for i in range(12)]
OLD = [{"text": f"重要: 原理 {i}. Once upon a time there was a little dog who liked to play."} for i in range(12)]
SUPPLIED = {"train_dataset": NEW, "eval_dataset": NEW[:4], "reference_dataset": OLD, "primary_dataset": NEW}


def arguments(**asked: Any) -> TrainingArguments:
    """The guide's training arguments in the spelling of transformers 5, for a run of four steps on a CPU."""
    named = {RENAMED.get(key, key): value for key, value in asked.items()}
    return TrainingArguments(**{**{k: v for k, v in named.items() if k is not None}, **SHORT, **HERE})


class Guide:
    """Runs the blocks that define a name, in order and in one namespace, with ours instead of the guide's objects."""

    def __init__(self) -> None:
        self.blocks = copied(handed_over(GUIDE))
        self.space: dict[str, Any] = {}

    def block(self, name: str) -> str:
        return next(b for b in self.blocks if f"\nclass {name}" in f"\n{b}" or f"\ndef {name}(" in f"\n{b}")

    def ours(self, *names: str) -> dict[str, Any]:
        for name in names:
            self.space |= run_with_ours(self.block(name), self.space, {**SUPPLIED, "replay_dataset": OLD})
        return self.space | {"TrainingArguments": arguments}

    def call(self, name: str, *before: str) -> Any:
        """The guide's example of that name, and what it had in hand when it returned."""
        space = self.ours(*before, name)
        for key, value in space.items():
            self.space[key] = value
        function = space[name]
        function.__globals__.update(space)
        return function()


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guide]:
    """The guide with a small base in the place of Llama-2, whose files land in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    base = load_base("tiny")
    found = {"AutoModelForCausalLM": base.model, "AutoTokenizer": base.tokenizer}
    for name, thing in found.items():
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", lambda *a, thing=thing, **k: thing)
    yield Guide()


def saved(folder: str) -> dict[str, Tensor]:
    return dict(load_base(folder).model.named_parameters())


def moved(folder: str) -> float:
    before = dict(load_base("tiny").model.named_parameters())
    return max(float((value - before[name]).detach().abs().max()) for name, value in saved(folder).items())


def test_chapter_2_prints_what_the_guide_prints(guide: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    block = guide.block("ForgettingDynamicsModel")
    run(block, {})
    theirs = capsys.readouterr().out
    run_with_ours(block, {}, {})
    assert capsys.readouterr().out == theirs and theirs.count("B模型:遗忘程度=") == 90


def test_chapter_4_l2_trains_and_saves(guide: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    guide.call("train_with_l2_regularization")
    assert "开始训练,使用L2正则化(系数:5e-05)...\n" in capsys.readouterr().out
    assert moved("finetuned_model_l2_reg") > 1e-3


def test_chapter_4_ewc_measures_trains_and_saves(
    guide: Guide, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "holdfast"):
        guide.call("train_with_ewc", "L2RegularizedTrainer")
    assert "开始训练,使用EWC正则化(系数:50000.0)..." in capsys.readouterr().out
    assert {"计算Fisher信息矩阵...", "Fisher信息矩阵计算完成"} <= set(caplog.messages)
    assert moved("finetuned_model_ewc") > 0


def test_chapter_5_replays_and_saves(
    guide: Guide, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "holdfast"):
        guide.call("train_with_prioritized_replay")
    assert "训练完成,模型已保存" in capsys.readouterr().out
    assert {"正在评估重放数据的重要性...", "重放数据优先级排序完成"} <= set(caplog.messages)
    assert "步骤 0: 重放比例调整为 0.3000" in caplog.messages  # the schedule of the example begins there
    assert moved("finetuned_model_replay") > 1e-3


def test_chapter_5_importance_is_the_guides_figure(guide: Guide) -> None:
    theirs = run(guide.block("SimpleImportanceEstimator"), {})["SimpleImportanceEstimator"](None, None)
    ours = SimpleImportanceEstimator(None, None)
    texts = ["", "核心", "关键 重要 基础 原理 定义 核心 原则", "word " * 150, "定义: " + "word " * 400]
    for text in texts:
        assert ours.estimate_importance({"text": text}) == theirs.estimate_importance({"text": text})
    assert ours.estimate_importance({}) == theirs.estimate_importance({}) == 0.0


def test_chapter_6_returns_what_the_guide_returns(guide: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """The guide's own functions, on a model that they can be run on, and ours leave the same to train."""
    for name, asked in [
        ("freeze_model_layers", {"freeze_layers_ratio": 0.8}),
        ("freeze_model_components", {}),
        ("freeze_model_components", {"freeze_attention": False, "freeze_mlp": True, "freeze_embeddings": False}),
    ]:
        theirs = run(guide.block(name), {})[name](load_base("tiny").model, **asked)
        ours = guide.ours(name)[name](load_base("tiny").model, **asked)
        assert ours[1:] == theirs[1:]
        assert [p.requires_grad for p in ours[0].parameters()] == [p.requires_grad for p in theirs[0].parameters()]
    theirs = run(guide.block("apply_lora_adapter"), {})["apply_lora_adapter"](load_base("tiny").model)
    ours = guide.ours("apply_lora_adapter")["apply_lora_adapter"](load_base("tiny").model)
    assert ours[1] == theirs[1]
    assert {n for n, p in ours[0].named_parameters() if p.requires_grad} == {
        n for n, p in theirs[0].named_parameters() if p.requires_grad
    }


@pytest.mark.slow
def test_chapter_7_learns_three_tasks_and_reports(
    guide: Guide,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda name: small())
    with caplog.at_level(logging.INFO, "holdfast"):
        report = guide.call("run_continual_learning_example", "LLMContinualLearningFramework")
    assert "平均遗忘率: 0." in capsys.readouterr().out
    for line in (
        "持续学习框架组件初始化完成",
        "注册新任务: task3",
        "开始训练任务: task1",
        "重放缓冲区已更新,当前大小: 3000",
    ):
        assert line in caplog.messages
    assert any(line.startswith("任务 task2 训练完成,遗忘评估结果: {") for line in caplog.messages)
    told = json.loads(Path("continual_learning_stability_report.json").read_text("utf-8"))
    assert told == report and caplog.messages[-1].endswith("continual_learning_stability_report.json")
    assert set(told) >= {"timestamp", "config", "tasks", "task_history", "metrics", "average_forgetting_rate"}
    assert told["tasks"] == 3 and [t["dataset_size"] for t in told["task_history"]] == [1000] * 3
    assert [list(seen) for seen in told["metrics"].values()] == [
        ["task1"],
        ["task1", "task2"],
        ["task1", "task2", "task3"],
    ]
    assert 0 <= told["average_forgetting_rate"] < 1 and math.isfinite(told["average_forgetting_rate"])
    assert told["config"]["regularization"]["lambda"] == 5e3
