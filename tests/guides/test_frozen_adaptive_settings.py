"""The guide "frozen & adaptive update": each setting has an effect that is seen, each strategy keeps its word."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast._errors import BadCheckpoint, BadInput, UnmatchedSelect
from holdfast.llm import (
    FrozenAdaptiveLLM,
    create_frozen_config,
    create_llm,
    create_llm_config,
    get_preset_configs,
)
from tests.models import ARCHITECTURES, build, quickly

ALL = ("embedding_weights", "attention_weights", "output_weights")
ONES: dict[str, Any] = {name: [1.0, 1.0, 1.0] for name in ALL}
UNLIKE: dict[str, Any] = {"embedding_weights": [0.1] * 3, "attention_weights": [1.0] * 3, "output_weights": [9.0] * 3}


def mock(**settings: Any) -> FrozenAdaptiveLLM:
    return FrozenAdaptiveLLM(create_llm(create_llm_config("mock")), create_frozen_config(**settings))


def rates(llm: FrozenAdaptiveLLM, metrics: list[float]) -> list[float]:
    """The learning rate that was applied after each metric."""
    found = []
    for metric in metrics:
        llm.update_parameters(ONES, metric)
        found.append(llm.get_performance_stats()["current_learning_rate"])
    return found


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# One test for each setting ------------------------------------------------------------------------------------------


def test_strategy() -> None:
    moved = {s: list(mock(strategy=s, update_frequency=2).update_parameters(UNLIKE)) for s in STRATEGIES}
    assert moved == {
        "frozen": [],
        "adaptive": list(ALL),
        "selective": ["attention_weights", "output_weights"],
        "incremental": [],
        "gradual": list(ALL),
    }


STRATEGIES = ("frozen", "adaptive", "selective", "incremental", "gradual")


def test_frozen_layers() -> None:
    assert list(mock(frozen_layers=["embedding", "encoder"]).update_parameters(ONES)) == ["output_weights"]


def test_frozen_parameters() -> None:
    llm = mock(frozen_parameters=["attention_weights", "output_*"])
    assert list(llm.update_parameters(ONES)) == ["embedding_weights"]


def test_adaptive_learning_rate() -> None:
    rising = [i / 10 for i in range(8)]
    assert rates(mock(adaptive_learning_rate=True), rising)[-1] > 1.2e-4
    assert rates(mock(adaptive_learning_rate=False), rising) == [1e-4] * 8


def test_min_learning_rate() -> None:
    falling = [1 - i / 1000 for i in range(30)]
    assert min(rates(mock(min_learning_rate=8e-5), falling)) == 8e-5
    assert min(rates(mock(min_learning_rate=5e-4), falling)) == 5e-4
    assert min(rates(mock(), falling)) < 8e-5


def test_max_learning_rate() -> None:
    rising = [i / 10 for i in range(30)]
    assert max(rates(mock(max_learning_rate=1.5e-4), rising)) == 1.5e-4
    assert max(rates(mock(max_learning_rate=2e-5), rising)) == 2e-5
    assert max(rates(mock(), rising)) > 1.5e-4


def test_importance_threshold() -> None:
    """Two of three are critical or important; at rank 0.9 only the most important one is left."""
    assert len(mock(strategy="selective", importance_threshold=0.1).update_parameters(UNLIKE)) == 2
    strict = mock(strategy="selective", importance_threshold=0.9)
    assert list(strict.update_parameters(UNLIKE)) == ["output_weights"]


def test_update_frequency() -> None:
    llm = mock(strategy="incremental", update_frequency=3)
    assert [len(llm.update_parameters(ONES)) for _ in range(6)] == [0, 0, 3, 0, 0, 3]


def test_performance_window() -> None:
    short, long = mock(performance_window=3), mock(performance_window=50)
    for llm in (short, long):
        rates(llm, [0.5, 0.6, 0.7, 0.7, 0.7])
    assert short.get_performance_stats()["average_performance"] == pytest.approx(0.7)
    assert long.get_performance_stats()["average_performance"] == pytest.approx(0.64)
    turning = [0.8, 0.81, 0.82, 0.83, 0.84, 0.85, 0.84, 0.83, 0.82]
    quick, slow = (rates(mock(performance_window=n), turning) for n in (3, 50))
    assert quick[-1] < quick[-2] and slow[-1] > quick[-1]


def test_rollback_threshold() -> None:
    for threshold, back in ((0.05, True), (0.2, False), (math.inf, False)):
        llm = mock(rollback_threshold=threshold)
        start = llm.get_parameters()
        llm.update_parameters(ONES, 0.9)
        assert bool(llm.update_parameters(ONES, 0.8)) is not back
        assert same(start, llm.get_parameters()) is back


def test_history_size() -> None:
    llm = mock(history_size=4)
    for _ in range(10):
        llm.update_parameters(ONES)
    history = llm.get_update_history()
    assert [entry.parameter_name for entry in history] == ["output_weights", *ALL]


def test_higher_is_better() -> None:
    rising = [1 + i / 1000 for i in range(8)]
    assert rates(mock(higher_is_better=True), rising)[-1] > 1e-4
    assert rates(mock(higher_is_better=False), rising)[-1] < 1e-4
    loss = mock(higher_is_better=False, rollback_threshold=0.05)
    loss.update_parameters(ONES, 10.0)
    assert loss.update_parameters(ONES, 10.4) and not loss.update_parameters(ONES, 10.6)


def test_optimizer() -> None:
    """AdamW moves every element as far as any other in its first step; SGD in proportion to the gradient."""
    gradients = {"output_weights": [1.0, 2.0, 4.0]}
    steps = {}
    for name in ("sgd", "adamw"):
        llm = mock(optimizer=name, adaptive_learning_rate=False)
        before = llm.get_parameters()["output_weights"]
        steps[name] = (before - llm.update_parameters(gradients)["output_weights"]).tolist()
    assert steps["sgd"] == pytest.approx([1e-4, 2e-4, 4e-4], abs=2.5e-7)
    assert steps["adamw"] == pytest.approx([1e-4, 1e-4, 1e-4], abs=3e-6)


# Strategies, on real models -----------------------------------------------------------------------------------------


def gradients(model: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


@pytest.mark.parametrize("arch", quickly(["llama", "t5"], ARCHITECTURES))
@pytest.mark.parametrize("preset", ["conservative", "aggressive", "balanced", "frozen"])
def test_every_preset_runs_on_every_architecture(preset: str, arch: str) -> None:
    model = build(arch)
    llm = FrozenAdaptiveLLM(model, get_preset_configs()[preset])
    before = llm.get_parameters()
    moved = llm.update_parameters(gradients(model), 0.5)
    frozen = {name for name, info in llm.get_parameter_info().items() if info.frozen}
    changed = {name for name, value in llm.get_parameters().items() if not torch.equal(value, before[name])}
    assert changed == set(moved) and not changed & frozen
    assert bool(changed) is (preset != "frozen")
    assert {n for n, p in model.named_parameters() if not p.requires_grad} >= frozen


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_frozen_holds_against_weight_decay_momentum_and_ties(strategy: str) -> None:
    model = build("llama")  # its embedding is tied to its head

    def adamw(params: list[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=rate, weight_decay=0.1)

    config = create_frozen_config(strategy, update_frequency=5, max_learning_rate=1e-2, min_learning_rate=1e-2)
    llm = FrozenAdaptiveLLM(model, config, optimizer=adamw)
    for step in range(3):
        llm.update_parameters(gradients(model, step))
    llm.freeze_layers(["embedding", "layers.1"])
    llm.freeze_parameters(["lm_head.weight"])
    before = llm.get_parameters()
    for step in range(50):
        llm.update_parameters(gradients(model, step))
    still = {n for n, v in llm.get_parameters().items() if torch.equal(v, before[n])}
    frozen = {n for n in before if ".layers.1." in n} | {"model.embed_tokens.weight"}
    assert frozen <= still
    assert strategy in ("frozen", "selective") or still == frozen


def test_gradual_is_the_same_in_any_order_of_parameters() -> None:
    forward, backward = mock(strategy="gradual"), mock(strategy="gradual")
    for _ in range(5):
        forward.update_parameters(ONES)
        backward.update_parameters(dict(reversed(ONES.items())))
    assert same(forward.get_parameters(), backward.get_parameters())
    applied = [entry.learning_rate for entry in forward.get_update_history()]
    assert applied[0::3] == applied[1::3] == applied[2::3] == sorted(set(applied), reverse=True)


def test_incremental_is_one_large_step_under_sgd() -> None:
    llm, generator = mock(strategy="incremental", update_frequency=8), torch.Generator().manual_seed(0)
    before = llm.get_parameters()
    drawn = [{name: torch.randn(3, generator=generator) for name in ALL} for _ in range(8)]
    for one in drawn:
        assert same(before, llm.get_parameters())
        llm.update_parameters(one)
    for name in ALL:
        expected = before[name] - 1e-4 * sum(one[name] for one in drawn)
        assert torch.allclose(llm.get_parameters()[name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["list", "numpy", "torch"])
def test_each_gradient_is_applied_once(kind: str) -> None:
    llm = mock()
    given = torch.tensor([1.0, -2.0, 0.5])
    forms = {"list": given.tolist(), "numpy": given.numpy(), "torch": given}
    before = llm.get_parameters()["output_weights"]
    after = llm.update_parameters({"output_weights": forms[kind]})["output_weights"]
    assert torch.allclose(after, before - 1e-4 * given, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"output_weights": [1.0]}, BadInput),
        ({"output_weights": [[1.0, 1.0, 1.0]]}, BadInput),
        ({"output_weights": [1.0, math.nan, 1.0]}, BadInput),
        ({"output_weights": [[1.0], [1.0, 2.0]]}, BadInput),
        ({"output_weights": "abc"}, BadInput),
        ({"outputs": [1.0, 1.0, 1.0]}, UnmatchedSelect),
    ],
)
def test_a_gradient_that_fits_nothing_changes_nothing(wrong: dict[str, Any], error: type[Exception]) -> None:
    llm = mock()
    before = llm.get_parameters()
    with pytest.raises(error):
        llm.update_parameters({"embedding_weights": [1.0, 1.0, 1.0], **wrong}, 0.5)
    assert same(before, llm.get_parameters())
    assert math.isnan(llm.get_performance_stats()["current_performance"])
    assert list(llm.update_parameters({"output_weights": [1.0, 1.0, 1.0]})) == ["output_weights"]
    assert torch.equal(before["embedding_weights"], llm.get_parameters()["embedding_weights"])


def test_debug_logging_says_why_a_parameter_did_not_move(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="holdfast")
    llm = mock(strategy="selective", frozen_layers=["embedding"])
    llm.update_parameters({**UNLIKE, "attention_weights": [1e-3] * 3})
    assert "embedding_weights did not move: it is frozen" in caplog.text
    assert "attention_weights did not move: others that may move are more important" in caplog.text
    mock().update_parameters({"output_weights": [0.0] * 3})
    assert "output_weights did not move: its gradient is zero" in caplog.text
    mock(strategy="incremental").update_parameters(ONES)
    assert "output_weights did not move: movements wait for every 100th update" in caplog.text


def test_files_that_cannot_be_gone_back_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    llm = mock()
    before = llm.get_parameters()
    assert llm.rollback_to_checkpoint(tmp_path / "nothing.pkl") is False
    assert "there is no checkpoint" in caplog.text
    torch.save(before, tmp_path / "pickle.pkl")
    foreign = FrozenAdaptiveLLM({"output_weights": [1.0, 2.0]})
    assert foreign.save_checkpoint(tmp_path / "foreign.pkl") is True
    for name, reason in (("pickle.pkl", "pickle"), ("foreign.pkl", "another model")):
        with pytest.raises(BadCheckpoint, match=reason):
            llm.rollback_to_checkpoint(tmp_path / name)
    assert same(before, llm.get_parameters())
