"""Replay as the guide has it: a data set that mixes, a trainer that replays by importance, and an estimator of it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset, get_worker_info
from transformers import TrainingArguments

from holdfast.data.rows import Row
from holdfast.llm.reading import MARK
from holdfast.llm.trainers import TextTrainer
from holdfast.params.select import Select
from holdfast.remedies.draws import Priority
from holdfast.remedies.replay import Replay
from holdfast.remedies.schedules import Linear, Schedule, checked, schedule
from holdfast.run import Run

logger = logging.getLogger(__name__)

RATIO, LAST = 0.2, 0.2
"""The share of old items at the start, and what of it is left at the end where no schedule is given."""

KEYWORDS = ("关键", "重要", "基础", "原理", "定义", "核心", "原则")
"""Words that make a text important, where no other criteria are given."""


class Estimator(Protocol):
    """Anything that says how important an item is."""

    def estimate_importance(self, data_item: Mapping[str, Any]) -> float:
        """A number of at least 0; more is more important."""


class ReplayDataset(Dataset[dict[str, Any]]):
    """`primary_dataset`, in which each item is, by chance `replay_ratio`, one of `replay_dataset` instead.

    Items come as they are, but for a `data_type` of "primary" or "replay"; the given ones are not touched. Old items
    come without replacement until all were seen (by each worker of a DataLoader for itself). Draws follow from `seed`
    and the order in which items are asked for. `replay_ratio` and `replay_dataset` may be changed at any time; without
    old items all are primary. Raises BadInput for a ratio outside [0, 1). In training, `PrioritizedReplayTrainer` adds
    old items without dropping new ones.

    >>> items = ReplayDataset([{"text": "new"}] * 1000, [{"text": "old"}], replay_ratio=0.3)
    >>> sum(items[i]["data_type"] == "replay" for i in range(1000))
    300
    """

    def __init__(self, primary_dataset: Any, replay_dataset: Any, replay_ratio: float = RATIO, *, seed: int = 0):
        self.primary_dataset, self.replay_dataset = primary_dataset, replay_dataset
        self.replay_ratio = replay_ratio
        self._random = random.Random(seed)
        self._order: list[int] = []
        self._worker: int | None = None

    @property
    def replay_ratio(self) -> float:
        """The chance of an old item, in [0, 1)."""
        return self._ratio

    @replay_ratio.setter
    def replay_ratio(self, value: float) -> None:
        self._ratio = checked(value, "the ratio of a ReplayDataset")

    def __len__(self) -> int:
        return len(self.primary_dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        worker = get_worker_info()
        if worker is not None and worker.seed != self._worker:  # a copy of this, new in each epoch
            self._worker, self._random, self._order = worker.seed, random.Random(worker.seed), []
        if self._random.random() < self._ratio and self.replay_dataset is not None and len(self.replay_dataset):
            return {**self.replay_dataset[self._next()], MARK: "replay"}
        return {**self.primary_dataset[index], MARK: "primary"}

    def _next(self) -> int:
        count = len(self.replay_dataset)
        self._order = [i for i in self._order if i < count] or self._random.sample(range(count), count)
        return self._order.pop()


class PrioritizedReplayTrainer(TextTrainer):
    """Learns `primary_dataset` and mixes rows of `replay_dataset` into every batch, with the rule `replay`.

    The new rows stay what they are and old ones are added, so that they are the part of the batch that
    `replay_ratio_schedule` says: a number, a schedule as in a recipe, or a function (step, steps in all) -> share; None
    is a straight line from 0.2 to 0.04. With an `importance_estimator` half of the old rows are drawn in proportion to
    importance (in which the highest twentieth counts alike), the others in turn; without one, all come in turn.
    `layers` lets the old rows' loss reach only a selection of parameters. `prioritized_replay_data` are the old items,
    the most important first. Other arguments as for `TextTrainer`. Raises BadInput for a share outside [0, 1) and for
    importance that is not a number.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        primary_dataset: Any,
        replay_dataset: Any,
        replay_ratio_schedule: float | str | Mapping[str, Any] | Schedule | None = None,
        importance_estimator: Estimator | None = None,
        *,
        layers: Select | str | None = None,
        **kwargs: Any,
    ):
        super().__init__(model, args, train_dataset=primary_dataset, **kwargs)
        self.initial_replay_ratio = RATIO
        given = Linear(RATIO, RATIO * LAST) if replay_ratio_schedule is None else replay_ratio_schedule
        self.replay_ratio_schedule = schedule(given)
        self.importance_estimator = importance_estimator
        rows, scores = self._weighed(replay_dataset)
        draw = "shuffled" if importance_estimator is None else priority(scores)
        self.replay = Replay(rows, share=self.replay_ratio_schedule, draw=draw, layers=layers, pad_id=self.pad_id)
        self.rules.append(self.replay)

    @property
    def current_replay_ratio(self) -> float:
        """The share of old rows in the step to come."""
        if not callable(self.replay_ratio_schedule):
            return self.replay_ratio_schedule
        if not self.state.max_steps:
            return self.initial_replay_ratio
        return float(self.replay_ratio_schedule(self.state.global_step, self.state.max_steps))

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the Trainer's; every hundred steps the share of old rows is logged."""
        if self.state.global_step % 100 == 0:
            logger.info("步骤 %d: 重放比例调整为 %.4f", self.state.global_step, self.current_replay_ratio)
        return super().training_step(*args, **kwargs)

    def _weighed(self, dataset: Any) -> tuple[list[Row], dict[tuple[int, ...], float]]:
        """The old rows, the most important items first, and the importance of each row by its tokens."""
        if self.importance_estimator is None:
            self.prioritized_replay_data = dataset
            return self.rows(dataset), {}
        logger.info("正在评估重放数据的重要性...")
        marks = [float(self.importance_estimator.estimate_importance(dataset[i])) for i in range(len(dataset))]
        order = sorted(range(len(marks)), key=marks.__getitem__, reverse=True)
        self.prioritized_replay_data = [dataset[i] for i in order]
        each = self.rows_of_each(dataset)
        found = [(row, marks[i]) for i in order for row in each[i]]
        logger.info("重放数据优先级排序完成")
        return [row for row, _ in found], {tuple(row["input_ids"]): mark for row, mark in found}


class SimpleImportanceEstimator:
    """How important an item is, by its text; an item of tokens is decoded first, and one without text has 0.

    `importance_criteria` is a function text -> number. Without one, importance is 0.4 min(1, words / 200) + 0.6 min(1,
    keywords / 5), where words are parted by blanks and keywords are Chinese ones. `model` is for criteria of one's own.
    """

    def __init__(self, model: Any, tokenizer: Any, importance_criteria: Callable[[str], float] | None = None):
        self.model, self.tokenizer = model, tokenizer
        self.importance_criteria = importance_criteria or _criteria

    def estimate_importance(self, data_item: Mapping[str, Any]) -> float:
        """The importance of one item: of its `text`, else of all its texts, else of its tokens."""
        text = data_item.get("text") or " ".join(v for v in data_item.values() if isinstance(v, str))
        if not text and "input_ids" in data_item:
            text = str(self.tokenizer.decode(data_item["input_ids"], skip_special_tokens=True))
        return float(self.importance_criteria(text)) if text else 0.0


def priority(scores: Mapping[tuple[int, ...], float]) -> Priority:
    """Rows by importance that is known of them beforehand, by their tokens."""

    def known(run: Run, rows: Sequence[Row]) -> list[float]:
        return [scores[tuple(row["input_ids"])] for row in rows]

    return known


def _criteria(text: str) -> float:
    words, keywords = len(text.split()), sum(keyword in text for keyword in KEYWORDS)
    return min(1.0, words / 200) * 0.4 + min(1.0, keywords / 5) * 0.6
