"""The continual learning framework: every setting has an effect, and the report says what was measured."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.base import load_base, load_tokenizer
from holdfast.evaluation.curve import FORMS
from holdfast.evaluation.monitor import Monitor
from holdfast.llm import LLMContinualLearningFramework
from holdfast.llm.trainers import TextTrainer
from holdfast.remedies.ewc import EWC
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.replay import Replay
from holdfast.rule import Rule
from tests.llm.training import NEW, OLD, arguments, small, values

OFF: dict[str, Any] = {
    key: {"enabled": False} for key in ("replay", "regularization", "parameter_isolation", "evaluation")
}


def framework(model: Any = None, **config: Any) -> LLMContinualLearningFramework:
    """All parts off but those that are said."""
    return LLMContinualLearningFramework(model or small(), load_tokenizer("tiny"), {**OFF, **config}, length=64)


def learnt(found: LLMContinualLearningFramework, folder: Path, *tasks: str, **more: Any) -> list[TextTrainer]:
    """The trainers of these tasks, registered and trained in turn; `old` and `new` have texts of their own."""
    trainers = []
    for name in tasks:
        dataset = {"old": OLD, "new": NEW}[name]
        found.register_task(name, dataset, dataset[:6])
        given = {"max_steps": 2, "learning_rate": 1e-3, "optim": "adamw_torch", **more}
        trainers.append(found.train_task(name, dataset, arguments(folder, **given)))
    return trainers


def rule(trainer: TextTrainer, kind: type[Rule]) -> Any:
    return next((rule for rule in trainer.rules if isinstance(rule, kind)), None)


def moved(found: LLMContinualLearningFramework) -> set[str]:
    before = values(small())
    return {n for n, v in values(found.base_model).items() if n in before and not torch.equal(v, before[n])}


def way(found: LLMContinualLearningFramework) -> float:
    before: dict[str, Tensor] = values(small())
    return sum(float((v - before[n]).square().sum()) for n, v in values(found.base_model).items()) ** 0.5


def test_everything_off_is_plain_training(tmp_path: Path) -> None:
    found, plain = framework(), small()
    (trainer,) = learnt(found, tmp_path, "new")
    assert trainer.rules == [] and found.replay_buffer is None and found.knowledge_metrics == {}
    args = arguments(tmp_path, max_steps=2, learning_rate=1e-3, optim="adamw_torch")
    TextTrainer(plain, args, train_dataset=NEW, tokenizer=found.tokenizer, length=64).train()
    same = zip(plain.parameters(), found.base_model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


# Replay -------------------------------------------------------------------------------------------------------------


def test_replay_enabled_brings_rows_of_earlier_tasks_only(tmp_path: Path) -> None:
    found = framework(replay={"replay_ratio": 0.5})
    first, second = learnt(found, tmp_path, "old", "new")
    assert rule(first, Replay) is None
    source = rule(second, Replay).source
    assert source.names == ["old"] and len(source) == 16
    found.register_task("later", ["a text of a task that is not learnt yet"])
    third = found.train_task("new", NEW, arguments(tmp_path, max_steps=1))
    assert rule(third, Replay).source.names == ["old"]


@pytest.mark.parametrize("share", [0.3, pytest.param(0.0, marks=pytest.mark.slow)])
def test_replay_ratio(share: float, tmp_path: Path) -> None:
    _, second = learnt(framework(replay={"replay_ratio": share}), tmp_path, "old", "new", max_steps=1)
    found = rule(second, Replay)
    assert found.share == share if share else found is None


def test_buffer_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = framework(replay={"buffer_size": 10})
    with caplog.at_level(logging.INFO, "holdfast"):
        found.register_task("old", OLD)
        found.register_task("new", NEW)
    assert found.replay_buffer is not None and found.replay_buffer.counts == {"old": 5, "new": 5}
    assert "重放缓冲区已更新,当前大小: 10" in caplog.messages


@pytest.mark.parametrize(
    ("prioritization", "kind"), [(True, "Prioritised"), pytest.param(False, "Shuffled", marks=pytest.mark.slow)]
)
def test_prioritization(prioritization: bool, kind: str, tmp_path: Path) -> None:
    found = framework(replay={"prioritization": prioritization})
    _, second = learnt(found, tmp_path, "old", "new")
    assert type(rule(second, Replay).draws).__name__ == kind


# Regularisation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ewc", pytest.param("l2", marks=pytest.mark.slow)])
def test_lambda_holds_weights_back(method: str, tmp_path: Path) -> None:
    ways = []
    for strength in (0.0, 1e8):
        held = framework(regularization={"method": method, "lambda": strength, "fisher_sample_size": 8})
        (trainer,) = learnt(held, tmp_path, "new")
        ways.append(way(held))
        assert rule(trainer, {"ewc": EWC, "l2": L2SP}[method]).strength == {"ewc": 1, "l2": 2}[method] * strength
    assert ways[1] < 0.5 * ways[0]


@pytest.mark.slow
def test_fisher_sample_size_and_when_importance_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.llm import continual

    counts: list[tuple[int, int]] = []
    measure = continual.importance

    def counted(model: Any, rows: Any, samples: int, **more: Any) -> Any:
        counts.append((len(rows), samples))
        return measure(model, rows, samples, **more)

    monkeypatch.setattr(continual, "importance", counted)
    found = framework(regularization={"lambda": 1.0, "fisher_sample_size": 3})
    found.register_task("old", OLD[:12])
    assert counts == [(12, 3)]  # of the first task, when it is registered
    first = found.train_task("old", OLD[:12], arguments(tmp_path, max_steps=1))
    found.register_task("new", NEW)
    assert len(counts) == 1
    second = found.train_task("new", NEW, arguments(tmp_path, max_steps=1))
    assert counts == [(12, 3)] * 2  # and again once it is learnt, for the next one
    third = found.train_task("old", OLD, arguments(tmp_path, max_steps=1))
    earlier, later = (rule(t, EWC).earlier for t in (second, third))
    assert rule(first, EWC).earlier.keys() == earlier.keys()
    assert all(bool((later[path] >= earlier[path]).all()) for path in earlier)  # tasks are summed


# Isolation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "lowest"), [(0.0, 0), (0.8, 2)])
def test_freeze_ratio(ratio: float, lowest: int, tmp_path: Path) -> None:
    found = framework(parameter_isolation={"strategy": "freeze", "freeze_ratio": ratio})
    learnt(found, tmp_path, "new")
    blocks = {int(name.split(".")[2]) for name in moved(found) if ".layers." in name}
    assert blocks == set(range(lowest, 3)) and "model.embed_tokens.weight" not in moved(found)


def test_adapter_config_and_one_adapter_for_all_tasks(tmp_path: Path) -> None:
    given = {"type": "lora", "r": 3, "alpha": 6, "target_modules": ["up_proj"]}
    found = framework(parameter_isolation={"strategy": "adapter", "adapter_config": given})
    first, second = learnt(found, tmp_path, "old", "new")
    assert first.model is second.model is found.base_model
    config = found.base_model.peft_config["default"]
    assert (config.r, config.lora_alpha, len(found.base_model.peft_config)) == (3, 6, 1)
    before = values(small())
    kept = {n.removeprefix("base_model.model.").replace(".base_layer", ""): v for n, v in values(second.model).items()}
    assert all(torch.equal(kept[name], value) for name, value in before.items())
    assert all(".up_proj." in n for n, p in second.model.named_parameters() if p.requires_grad)


# Evaluation ---------------------------------------------------------------------------------------------------------


def test_eval_interval(tmp_path: Path) -> None:
    found = framework(evaluation={"eval_interval": 2})
    _, second = learnt(found, tmp_path, "old", "new", max_steps=5)
    assert second.run is not None
    looks = [(line["step"], line["kind"], line["text"]) for line in second.run.journal if "text" in line]
    assert looks == [(2, "learn", "new"), (2, "probe", "old"), (4, "learn", "new"), (4, "probe", "old")]
    assert rule(second, Monitor).looks.every == 2


def test_metrics(tmp_path: Path) -> None:
    found = framework(evaluation={"metrics": ["task_performance"]})
    learnt(found, tmp_path, "old", "new")
    told = found.generate_stability_report()
    assert set(told["metrics"]["new"]["old"]) == {"task_performance", "measure", "loss", "rows"}
    assert told["average_forgetting_rate"] is not None


def test_the_report_is_what_was_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = framework(evaluation={"eval_interval": 1})
    learnt(found, tmp_path, "old", "new", max_steps=12, learning_rate=3e-3, lr_scheduler_type="linear")
    with caplog.at_level(logging.INFO, "holdfast"):
        told = found.generate_stability_report(tmp_path / "deep" / "report.json")
    assert f"稳定性报告已保存到: {tmp_path / 'deep' / 'report.json'}" in caplog.messages
    assert json.loads((tmp_path / "deep" / "report.json").read_text("utf-8")) == told
    assert told["tasks"] == 2 and told["config"] == found.config
    assert told["task_history"][1] == {"task_id": "new", "dataset_size": 16, "evaluation_dataset": 6}
    old = told["metrics"]["new"]["old"]
    assert told["average_forgetting_rate"] == old["forgetting_rate"] > 0
    assert told["signed_forgetting_rate"] == old["signed_forgetting_rate"]
    figures = told["matrices"]["loss"]["figures"]
    assert figures["backward_transfer"]["mean"] < 0 and figures["forgetting"]["mean"] > 0
    curve = told["forgetting_curves"]["new"]["old"]
    assert curve["curve"] in FORMS and curve["looks"] == 12
    again = curve["as_much_again_costs"]
    assert again["low"] < again["nats"] < again["high"] and 6 < again["full_steps"] < 12


@pytest.mark.slow
def test_the_average_is_always_there(tmp_path: Path) -> None:
    scored, blind = framework(evaluation={}), framework()
    assert scored.generate_stability_report()["average_forgetting_rate"] is None  # nothing was learnt yet
    learnt(scored, tmp_path, "new")
    assert scored.generate_stability_report()["average_forgetting_rate"] == 0.0
    learnt(blind, tmp_path, "new")
    assert blind.generate_stability_report()["average_forgetting_rate"] is None  # and this one was not to look


def test_a_task_that_is_never_trained_says_what_became_of_the_base(tmp_path: Path) -> None:
    found = framework(evaluation={})
    found.register_task("general", OLD)
    learnt(found, tmp_path, "new", learning_rate=3e-3)
    told = found.generate_stability_report()
    assert told["metrics"]["new"]["general"]["forgetting_rate"] == told["average_forgetting_rate"] > 0
    assert told["task_history"][0]["evaluation_dataset"] is None


# All together -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_framework_forgets_less_than_plain_training(tmp_path: Path) -> None:
    rates = []
    for config in (OFF, {**OFF, "replay": {"replay_ratio": 0.4}}):
        found = framework(load_base("tiny").model, **{**config, "evaluation": {}})
        learnt(found, tmp_path, "old", "new", max_steps=12, learning_rate=3e-3)
        told = found.generate_stability_report()
        rates.append((told["signed_forgetting_rate"]["mean"], told["metrics"]["new"]["new"]["task_performance"]))
    (plain, gain), (kept, learning) = rates
    assert kept < plain - 0.1 and learning > 0.7 * gain


def test_rules_and_arguments_of_ones_own_go_to_the_trainer(tmp_path: Path) -> None:
    found, own = framework(), L2SP(1.0)
    found.register_task("new", NEW)
    args = arguments(tmp_path, max_steps=1)
    more = {"rules": [own], "eval_dataset": OLD, "processing_class": found.tokenizer}
    trainer = found.train_task("new", NEW, args, **more)
    assert trainer.rules == [own] and "eval_loss" in trainer.evaluate()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    found = framework()
    with pytest.raises(BadInput, match="register_task\\('new'"):
        found.train_task("new", NEW, arguments(tmp_path))
    found.register_task("new", NEW)
    with pytest.raises(BadInput, match="registered already"):
        found.register_task("new", NEW)
    with pytest.raises(BadInput, match="empty"):
        found.register_task("none", [])
    assert found.tasks == ["new"]
