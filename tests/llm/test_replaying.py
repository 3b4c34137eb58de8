"""Replay by the guide's names: shares are kept, importance counts, schedules and estimators of one's own work."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import load_base
from holdfast._errors import BadInput
from holdfast.llm import PrioritizedReplayTrainer, ReplayDataset, SimpleImportanceEstimator
from holdfast.rule import REPLAYED, Rule
from holdfast.run import Run
from tests.llm.training import NEW, OLD, ROWS, arguments, values
from tests.models import build


class Seen(Rule):
    """Notes how many rows of each batch are old, and the first tokens of those."""

    def __init__(self) -> None:
        self.shares: list[float] = []
        self.old: list[tuple[int, ...]] = []

    def penalty(self, run: Run, batch: dict[str, Tensor], outputs: Any) -> None:
        marks = batch.get(REPLAYED, torch.zeros(len(batch["input_ids"]), dtype=torch.bool))
        self.shares.append(float(marks.float().mean()))
        seen = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        pairs = zip(batch["input_ids"][marks], seen[marks], strict=True)
        self.old += [tuple(row[kept].tolist()) for row, kept in pairs]


class Fixed:
    """An estimator of one's own: any object with the method will do."""

    def estimate_importance(self, data_item: Mapping[str, Any]) -> float:
        return 1.0 if data_item["text"].endswith(" 3.") else 0.0


def trained(folder: Path, seen: Seen, *, steps: int = 8, **asked: Any) -> PrioritizedReplayTrainer:
    base = load_base("tiny")
    args = arguments(folder, max_steps=steps, per_device_train_batch_size=6)
    trainer = PrioritizedReplayTrainer(base.model, args, NEW, OLD, tokenizer=base.tokenizer, **asked)
    trainer.rules.append(seen)
    trainer.train()
    return trainer


def test_a_data_set_mixes_by_its_ratio_and_says_whose_an_item_is() -> None:
    new, old = [{"text": f"new {i}"} for i in range(2000)], [{"text": f"old {i}"} for i in range(5)]
    mixed = ReplayDataset(new, old, replay_ratio=0.3)
    items = [mixed[i] for i in range(len(mixed))]
    kinds = Counter(item["data_type"] for item in items)
    assert len(mixed) == 2000 and kinds["replay"] == pytest.approx(600, abs=60)
    assert all(item["text"] == f"new {i}" for i, item in enumerate(items) if item["data_type"] == "primary")
    each = Counter(item["text"] for item in items if item["data_type"] == "replay")
    assert max(each.values()) - min(each.values()) <= 1  # none comes twice before all were seen
    assert new[0] == {"text": "new 0"} and old[0] == {"text": "old 0"}
    again = ReplayDataset(new, old, replay_ratio=0.3)
    assert [again[i] for i in range(2000)] == items
    assert [ReplayDataset(new, old, 0.3, seed=1)[i] for i in range(50)] != items[:50]


def test_a_data_set_without_old_items_or_share_is_the_new_one() -> None:
    for old, ratio in (([], 0.5), (None, 0.5), (OLD, 0.0)):
        mixed = ReplayDataset(NEW, old, ratio)
        assert {mixed[i]["data_type"] for i in range(len(NEW))} == {"primary"}
    mixed = ReplayDataset(NEW, [], 0.99)
    mixed.replay_dataset = OLD  # an empty buffer that fills later
    assert {mixed[i]["data_type"] for i in range(10)} >= {"replay"}
    mixed.replay_ratio = 0.0
    assert {mixed[i]["data_type"] for i in range(10)} == {"primary"}
    with pytest.raises(BadInput, match="0 <= share < 1"):
        ReplayDataset(NEW, OLD, 1.5)


def test_a_data_set_trains_in_the_trainer_of_transformers(tmp_path: Path) -> None:
    import transformers

    given = [{**row, "attention_mask": [1] * 8} for row in ROWS]
    model = build("llama")
    before = values(model)
    transformers.Trainer(model, arguments(tmp_path), train_dataset=ReplayDataset(given, given[::-1])).train()
    assert not torch.equal(before["model.norm.weight"], values(model)["model.norm.weight"])


def test_without_a_schedule_the_share_falls_from_a_fifth_to_a_fifth_of_it(tmp_path: Path) -> None:
    seen = Seen()
    trainer = trained(tmp_path, seen, steps=20)
    assert sum(seen.shares[:4]) / 4 == pytest.approx(0.18, abs=0.04)
    assert sum(seen.shares[-8:]) / 8 == pytest.approx(0.07, abs=0.04)
    assert trainer.current_replay_ratio == pytest.approx(0.04) and trainer.initial_replay_ratio == 0.2


def test_a_schedule_may_be_any_function_of_the_step_and_all_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen, asked = Seen(), set()

    def half_then_nothing(global_step: int, total_steps: int) -> float:
        asked.add(total_steps)
        return 0.5 if global_step < 4 else 0.0

    with caplog.at_level(logging.INFO, "holdfast"):
        trained(tmp_path, seen, replay_ratio_schedule=half_then_nothing)
    assert seen.shares == [0.5] * 4 + [0.0] * 4 and asked == {8}
    assert "步骤 0: 重放比例调整为 0.5000" in caplog.messages


def test_what_an_estimator_finds_important_comes_more_often(tmp_path: Path) -> None:
    seen = Seen()
    trainer = trained(tmp_path, seen, steps=12, replay_ratio_schedule=0.5, importance_estimator=Fixed())
    assert trainer.prioritized_replay_data[0] == OLD[3]
    most, count = Counter(seen.old).most_common(1)[0]
    assert count > len(seen.old) / 3
    assert trainer.processing_class.decode(most, skip_special_tokens=True).endswith(" 3.")


def test_without_an_estimator_all_come_alike(tmp_path: Path) -> None:
    seen = Seen()
    trained(tmp_path, seen, steps=8, replay_ratio_schedule=0.4)
    counts = Counter(seen.old).values()
    assert len(counts) == 16 and max(counts) - min(counts) == 1


def test_old_rows_reach_only_the_layers_that_are_named(tmp_path: Path) -> None:
    found = []
    for asked in ({"replay_ratio_schedule": 0.0}, {"replay_ratio_schedule": 0.5, "layers": "layers(1:)"}):
        model = build("llama", tied=False)
        args = arguments(tmp_path, max_steps=1, learning_rate=1.0)
        PrioritizedReplayTrainer(model, args, ROWS[:6], ROWS[6:], **asked).train()
        found.append(values(model))
    same = {name for name, value in found[0].items() if torch.allclose(value, found[1][name], rtol=0, atol=1e-6)}
    assert {name for name in found[0] if ".layers.0." in name or "embed" in name} <= same
    assert not any(".layers.1.mlp" in name for name in same)


def test_an_estimator_reads_text_and_tokens_by_any_criteria() -> None:
    tokenizer = load_base("tiny").tokenizer
    estimator = SimpleImportanceEstimator(None, tokenizer, len)
    assert estimator.estimate_importance({"text": "four"}) == 4.0
    assert estimator.estimate_importance({"input_ids": tokenizer("four", add_special_tokens=False)["input_ids"]}) == 4
    assert estimator.estimate_importance({"prompt": "ab", "completion": "c"}) == 4.0
    assert estimator.estimate_importance({}) == estimator.estimate_importance({"text": ""}) == 0.0


def test_a_share_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="0 <= share < 1"):
        trained(tmp_path, Seen(), replay_ratio_schedule=lambda step, total: 1.0)
    with pytest.raises(BadInput, match="empty"):
        PrioritizedReplayTrainer(build("llama"), arguments(tmp_path), ROWS, [])
