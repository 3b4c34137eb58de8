"""The whole object: many readers beside one writer, checkpoints bit for bit, two owners of one model, nothing left."""

from __future__ import annotations

import gc
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast._errors import BadInput, UnmatchedSelect
from holdfast.llm import (
    FrozenAdaptiveLLM,
    ParameterImportance,
    create_frozen_adaptive_llm,
    create_frozen_config,
    create_llm,
    create_llm_config,
)
from holdfast.llm.session import Session
from tests.models import build

ONES: dict[str, Any] = {name: [1.0, 1.0, 1.0] for name in ("embedding_weights", "attention_weights", "output_weights")}


def mock(**settings: Any) -> FrozenAdaptiveLLM:
    return create_frozen_adaptive_llm(create_llm(create_llm_config("mock")), **settings)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def gradients(model: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


def test_eight_threads_read_while_one_updates() -> None:
    """Every update moves all elements of all tensors alike, so a torn value would be two different ones."""
    names = [f"layer{i}.w" for i in range(6)]
    llm = FrozenAdaptiveLLM({name: torch.zeros(4_000) for name in names}, create_frozen_config(history_size=30))
    done = threading.Event()

    def read(kind: int) -> int:
        reads = 0
        while not done.is_set() or not reads:
            values = torch.cat(list(llm.get_parameters().values()))
            assert bool((values == values[0]).all())
            stats = llm.get_performance_stats()
            assert len(stats) == 6 and stats["update_count"] >= 0
            assert len({info.update_count for info in llm.get_parameter_info().values()}) == 1
            assert len(llm.get_update_history()) % 6 == 0
            reads += 1
        return reads

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read, i) for i in range(8)]
        try:
            for step in range(40):
                llm.update_parameters({name: torch.ones(4_000) for name in names}, 0.5 + step / 1000)
                if step % 10 == 7:
                    llm.freeze_parameters(["layer0.w"])
                    llm.unfreeze_parameters(["layer0.w"])
        finally:
            done.set()
        assert all(reader.result(timeout=60) > 0 for reader in readers)
    assert llm.get_performance_stats()["update_count"] == 40


def test_answers_are_given_while_updates_run() -> None:
    llm = mock()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(llm.generate, f"prompt {i}") for i in range(40)]
        for _ in range(40):
            llm.update_parameters(ONES)
        assert all(0 < answer.result(timeout=60).confidence < 1 for answer in answers)


def test_a_checkpoint_brings_back_weights_optimiser_and_statistics_bit_for_bit(tmp_path: Path) -> None:
    model = build("llama")
    llm = FrozenAdaptiveLLM(model, create_frozen_config("gradual", optimizer="adamw", frozen_layers=["norm"]))
    for step in range(3):
        llm.update_parameters(gradients(model, step), 0.5 + step / 100)
    assert llm.save_checkpoint(tmp_path / "here" / "x.pkl") is True
    then = llm.get_parameters(), llm.get_performance_stats(), llm.get_parameter_info()
    after = []
    for _ in range(2):
        for step in range(3, 6):
            llm.update_parameters(gradients(model, step), 0.6)
        after.append(llm.get_parameters())
        assert llm.rollback_to_checkpoint(tmp_path / "here" / "x.pkl") is True
        assert same(then[0], llm.get_parameters())
        assert (then[1], then[2]) == (llm.get_performance_stats(), llm.get_parameter_info())
    assert same(after[0], after[1]) and not same(then[0], after[0])


def test_a_checkpoint_serves_another_object_on_the_same_base(tmp_path: Path) -> None:
    first = mock(optimizer="adamw")
    for _ in range(3):
        first.update_parameters(ONES, 0.5)
    first.freeze_layers(["decoder"])
    first.save_checkpoint(tmp_path / "x.pkl")
    second = mock(optimizer="adamw")
    assert second.rollback_to_checkpoint(tmp_path / "x.pkl") is True
    assert same(first.get_parameters(), second.get_parameters())
    assert second.get_parameter_info()["output_weights"].frozen
    assert first.update_parameters(ONES).keys() == second.update_parameters(ONES).keys()
    assert same(first.get_parameters(), second.get_parameters())


def test_automatic_checkpoints_are_bounded_and_found_by_name(tmp_path: Path) -> None:
    llm = FrozenAdaptiveLLM({"w": [1.0, 2.0]}, folder=tmp_path, keep=2)
    for metric in (0.5, 0.9, 0.89, 0.88, 0.87, 0.86):
        llm.update_parameters({"w": [1.0, 1.0]}, metric)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best_checkpoint.pkl", "step-4", "step-5"]
    assert llm.rollback_to_checkpoint("best_checkpoint.pkl") is True
    assert llm.get_performance_stats()["current_performance"] == 0.9
    assert torch.allclose(llm.get_parameters()["w"], torch.tensor([1.0, 2.0]) - 1e-4, atol=1e-6)


def test_a_fall_brings_the_best_back_and_leaves_freezing_to_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    llm = mock()
    llm.update_parameters(ONES, 0.8)
    llm.update_parameters(ONES, 0.9)
    best = llm.get_parameters()
    llm.freeze_layers(["encoder"])
    llm.update_parameters(ONES, 0.89)
    assert llm.update_parameters(ONES, 0.5) == {}
    assert "rolled back" in caplog.text
    assert not same(best, llm.get_parameters())  # the best was that before the update that came with 0.9
    assert llm.get_performance_stats()["current_performance"] == 0.9
    assert llm.get_parameter_info()["attention_weights"].frozen
    assert list(llm.update_parameters(ONES, 0.9)) == ["embedding_weights", "output_weights"]


def test_statistics_have_all_their_keys_before_anything_happened() -> None:
    stats = mock().get_performance_stats()
    assert len(stats) == 6 and stats["update_count"] == 0 and stats["current_learning_rate"] == 1e-4
    assert all(math.isnan(stats[key]) for key in stats if "performance" in key)
    assert all(f"{value:.3f}" for value in stats.values())


def test_whether_a_parameter_would_move() -> None:
    llm = mock(strategy="incremental", update_frequency=2, frozen_layers=["encoder"])
    for due in (False, True, False):
        assert llm.should_update_parameter("output_weights") is due
        assert not llm.should_update_parameter("attention_weights")
        assert bool(llm.update_parameters(ONES)) is due
    selective = mock(strategy="selective")
    assert selective.should_update_parameter("output_weights", ParameterImportance.IMPORTANT)
    assert not selective.should_update_parameter("output_weights", ParameterImportance.MODERATE)


def test_flags_follow_freezing_and_a_second_owner_starts_afresh() -> None:
    base = create_llm(create_llm_config("mock"))
    first = FrozenAdaptiveLLM(base, create_frozen_config("frozen"))
    assert not any(p.requires_grad for p in base.model.parameters())
    second = FrozenAdaptiveLLM(base, create_frozen_config(frozen_layers=["decoder"]))
    assert {n for n, p in base.model.named_parameters() if p.requires_grad} == {
        "embedding_weights",
        "attention_weights",
    }
    assert first.update_parameters(ONES) == {}
    assert list(second.update_parameters(ONES)) == ["embedding_weights", "attention_weights"]
    second.unfreeze_layers(["decoder"])
    second.freeze_parameters(["attention_weights"])
    assert [n for n, p in base.model.named_parameters() if not p.requires_grad] == ["attention_weights"]
    second.close()
    second.close()
    assert all(p.requires_grad for p in base.model.parameters())
    for change in (lambda: second.update_parameters(ONES), lambda: second.freeze_layers(["decoder"])):
        with pytest.raises(BadInput, match="was closed"):
            change()
    assert len(second.get_performance_stats()) == 6


def test_what_selective_leaves_out_once_may_be_chosen_next_time() -> None:
    llm = mock(strategy="selective")
    names = list(ONES)
    for leader in (*names, *names):
        given = {name: [9.0 if name == leader else 0.1 * i + 0.1] * 3 for i, name in enumerate(names)}
        flags = {name: p.requires_grad for name, p in llm.base_llm.model.named_parameters()}
        assert leader in llm.update_parameters({name: g for name, g in given.items() if flags[name]})


def test_what_never_required_a_gradient_stays_as_it_is() -> None:
    model = build("lora")
    llm = FrozenAdaptiveLLM(model)
    info = llm.get_parameter_info()
    assert {name for name, i in info.items() if not i.frozen} == {n for n in info if "lora_" in n}
    llm.unfreeze_layers(["embedding"])
    moved = llm.update_parameters(gradients(model, 0))
    assert moved.keys() == {n for n in info if "lora_" in n}


def test_names_that_the_model_does_not_have_are_refused_at_once() -> None:
    for settings in ({"frozen_layers": ["embeddings"]}, {"frozen_parameters": ["embeding_weights"]}):
        with pytest.raises(UnmatchedSelect, match="embedding"):
            mock(**settings)
    llm = mock()
    with pytest.raises(UnmatchedSelect):
        llm.freeze_layers(["decoder", "docoder"])
    assert not llm.get_parameter_info()["output_weights"].frozen


@pytest.mark.slow
def test_memory_does_not_grow_with_updates() -> None:
    llm = FrozenAdaptiveLLM({"w": torch.zeros(1000)}, create_frozen_config(history_size=10, performance_window=5))

    def held() -> int:
        gc.collect()
        return sum(1 for thing in gc.get_objects() if type(thing) is Tensor)

    for _ in range(20):
        llm.update_parameters({"w": torch.ones(1000)}, 0.5)
    before = held()
    for _ in range(100):
        llm.update_parameters({"w": torch.ones(1000)}, 0.5)
    assert held() <= before
    assert len(llm.get_update_history()) == 10


def test_temporary_files_go_with_the_object() -> None:
    llm = mock()
    llm.update_parameters(ONES, 0.5)
    session: Session = llm._session
    file = session.rules.rollback.best_file(session.run)
    assert file.is_file()
    del llm
    gc.collect()
    assert not file.exists()
