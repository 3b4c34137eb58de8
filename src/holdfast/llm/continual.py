"""The continual learning framework: task after task with replay, regularisation, isolation and scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from holdfast._errors import BadInput
from holdfast.data.rows import Row, padding
from holdfast.evaluation.curve import EXPLAINED, Fit, forgetting_curve, full_steps
from holdfast.evaluation.monitor import Monitor
from holdfast.evaluation.plain import finite, write_json
from holdfast.llm.anchored import check_room, importance, summed
from holdfast.llm.continual_settings import continual_settings
from holdfast.llm.isolation import apply_lora_adapter, freeze_model_layers
from holdfast.llm.reading import longest, records_of, rows_of, tokenised
from holdfast.llm.retention import Exam, Retention
from holdfast.llm.trainers import TextTrainer
from holdfast.remedies.buffer import Reservoir
from holdfast.remedies.ewc import EWC
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.replay import Replay
from holdfast.rule import Rule

logger = logging.getLogger(__name__)

LOOKED, SCORED = 64, 512
"""Rows of a task that are looked at while another trains, and items that score it where it has no evaluation data."""


class LLMContinualLearningFramework:
    """Learns task after task with one model, and keeps what it learnt as `config` says.

    Register each task, then train it. **Replay** mixes rows of the tasks learnt before into every batch. **Isolation**
    freezes lower layers, or all but an adapter that learns on; it begins at once, and `base_model` is then what trains.
    **Regularisation** anchors each task's run at the model that it starts from: `l2` holds all weights back alike,
    `ewc` by their importance, which is measured on each task's rows when it has been learnt and summed over tasks.
    While the first task is learnt, it is that of its own text for the base's own predictions, from its registration.
    **Evaluation** scores all tasks after each one, and looks at them every `eval_interval` steps.

    `config` may leave out what has a default, see `ContinualSettings` for the keys. Data sets are texts, records or
    tokens in rows of at most `length`. Raises UnknownName for settings that there are not, BadInput for values that
    cannot be.
    """

    def __init__(
        self,
        base_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: Mapping[str, Any] | None = None,
        *,
        length: int | None = None,
        seed: int = 0,
    ):
        settings = continual_settings(config)
        self.config = settings.plain()
        self.base_model: Any = base_model
        self.tokenizer, self.seed = tokenizer, seed
        self.length, self.pad_id = length or longest(base_model), padding(tokenizer)
        self._replay, self._hold, self._aside, self._scoring = (
            settings.replay, settings.regularization, settings.parameter_isolation, settings.evaluation,
        )  # fmt: skip
        self.task_history: list[dict[str, Any]] = []
        self.knowledge_metrics: dict[str, dict[str, Any]] = {}
        self.replay_buffer = Reservoir(self._replay.buffer_size, seed) if self._replay.enabled else None
        self.retention = Retention(tokenizer)
        self.curves: dict[str, dict[str, Any]] = {}
        self._importance: dict[str, Tensor] = {}
        self._due: Any = None
        self._learnt: list[str] = []
        self._isolate()
        logger.info("持续学习框架组件初始化完成")

    @property
    def tasks(self) -> list[str]:
        """The ids of the registered tasks, in order."""
        return [task["task_id"] for task in self.task_history]

    def register_task(self, task_id: str, dataset: Any, evaluation_dataset: Any = None) -> dict[str, Any]:
        """Make a task known before it is trained; its entry in `task_history`.

        Its rows enter the replay buffer, and it is scored as the model is now. Without evaluation data it is scored on
        up to 512 items that it learns. A task that is never trained is scored all the same, and says what becomes of
        something that the base knew. Raises BadInput for an id that is taken and for data that cannot be read.
        """
        if task_id in self.tasks:
            raise BadInput(f"A task {task_id!r} is registered already; give each its own id.")
        logger.info("注册新任务: %s", task_id)
        rows = self._rows(dataset)
        own = [dataset[i] for i in range(min(len(dataset), SCORED))] if evaluation_dataset is None else None
        self.retention.exams[task_id] = self._exam(evaluation_dataset if own is None else own)
        if self.replay_buffer is not None:
            self.replay_buffer.add(task_id, rows)
            logger.info("重放缓冲区已更新,当前大小: %d", len(self.replay_buffer))
        if not self.task_history and self._hold.enabled and self._hold.method == "ewc":
            self._importance = self._measured(rows)
        if self._scoring.enabled:
            self.retention.look(self.base_model, len(self._learnt), [task_id])
        told = {"task_id": task_id, "dataset_size": len(dataset), "evaluation_dataset": evaluation_dataset}
        self.task_history.append(told)
        return told

    def train_task(self, task_id: str, dataset: Any, training_args: TrainingArguments, **kwargs: Any) -> TextTrainer:
        """Learn a registered task, score all tasks, and return the trainer; `kwargs` as for `TextTrainer`.

        Raises BadInput for a task that is not registered, and whatever the training raises.
        """
        if task_id not in self.tasks:
            raise BadInput(f"There is no task {task_id!r} yet: call register_task({task_id!r}, dataset) first.")
        logger.info("开始训练任务: %s", task_id)
        tokenizer = {} if "processing_class" in kwargs else {"tokenizer": self.tokenizer}
        asked = {**tokenizer, "length": self.length, **kwargs}
        rules = [*asked.pop("rules", ()), *self._rules(task_id)]
        check_room(self._importance, self._hold.strength, training_args.learning_rate)
        trainer = TextTrainer(self.base_model, training_args, train_dataset=dataset, rules=rules, **asked)
        trainer.train()
        if trainer.interrupted:
            logger.warning("Training was interrupted, so %s does not count as learnt; train it again.", task_id)
            return trainer
        self._due = None if task_id in self._learnt else dataset
        self._learnt.append(task_id)
        if self._scoring.enabled:
            self._score(task_id)
            assert trainer.run is not None
            self.curves[task_id] = _curves(trainer.run.journal, self._others(task_id))
        return trainer

    def generate_stability_report(self, save_path: str | Path | None = None) -> dict[str, Any]:
        """What was learnt and kept so far, in plain values, written to `save_path` as JSON if given.

        Beside the guide's keys: `signed_forgetting_rate`, the average without clipping, with its interval; `matrices`
        with ACC, BWT and the like; `forgetting_curves`, fitted to what each run's looks saw of other tasks, with what
        as much training again would cost. Averages are over all tasks but the one learnt last, None where nothing was
        scored.
        """
        history = [{**task, "evaluation_dataset": _size(task["evaluation_dataset"])} for task in self.task_history]
        scored = self._scoring.enabled and bool(self._learnt)
        others = self._others(self._learnt[-1]) if scored else []
        rates = [max(0.0, self.retention.lost([name])["mean"]) for name in others]
        report = {
            "timestamp": datetime.now().isoformat(),
            "config": self.config,
            "tasks": len(self.task_history),
            "task_history": history,
            "metrics": self.knowledge_metrics,
            "average_forgetting_rate": sum(rates) / len(rates) if rates else (0.0 if scored else None),
            "signed_forgetting_rate": self.retention.lost(others) if others else None,
            "matrices": self.retention.matrices() if scored else {},
            "forgetting_curves": self.curves,
        }
        told: dict[str, Any] = finite(report)
        if save_path is not None:
            Path(save_path).parent.mkdir(parents=True, exist_ok=True)
            write_json(told, Path(save_path))
            logger.info("稳定性报告已保存到: %s", save_path)
        return told

    def _isolate(self) -> None:
        if not self._aside.enabled:
            return
        if self._aside.strategy == "freeze":
            freeze_model_layers(self.base_model, self._aside.freeze_ratio)
        else:
            given = self._aside.adapter_config
            self.base_model, _ = apply_lora_adapter(
                self.base_model, given.r, given.alpha, given.target_modules, given.dropout, seed=self.seed
            )

    def _rules(self, task_id: str) -> list[Rule]:
        """What holds back, what is replayed, and who looks on, while a task is learnt."""
        rules: list[Rule] = []
        if self._hold.enabled and self._hold.method == "l2":
            rules.append(L2SP(2 * self._hold.strength))
        elif self._hold.enabled:
            self._remember()
            rules.append(EWC(importance=self._importance, strength=self._hold.strength))
        earlier = {name: self._remembered(name) for name in dict.fromkeys(self._learnt) if name != task_id}
        if any(earlier.values()) and self._replay.replay_ratio:
            draw = "increase" if self._replay.prioritization else "shuffled"
            rules.append(Replay(earlier, self._replay.replay_ratio, draw=draw, pad_id=self.pad_id))
        if self._scoring.enabled:
            seen = {name: exam.rows[:LOOKED] for name, exam in self.retention.exams.items()}
            new = {task_id: seen.pop(task_id)}
            rules.append(Monitor(new, seen, every=self._scoring.eval_interval, pad_id=self.pad_id))
        return rules

    def _remember(self) -> None:
        """Measure the importance of the task learnt last, once another one comes."""
        if self._due is not None:
            own = self._measured(self._rows(self._due))
            self._importance = summed([self._importance, own]) if len(set(self._learnt)) > 1 else own
            self._due = None

    def _remembered(self, name: str) -> Sequence[Row]:
        return () if self.replay_buffer is None else self.replay_buffer.parts.get(name, ())

    def _score(self, task_id: str) -> None:
        stage = len(self._learnt)
        exam = self.retention.exams[task_id]
        exam.learnt = exam.learnt or stage
        self.retention.look(self.base_model, stage)
        metrics = {name: self.retention.results(name, self._scoring.metrics) for name in self.tasks}
        self.knowledge_metrics[task_id] = metrics
        logger.info("任务 %s 训练完成,遗忘评估结果: %s", task_id, metrics)

    def _others(self, task_id: str) -> list[str]:
        return [name for name in self.tasks if name != task_id]

    def _measured(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        samples = self._hold.fisher_sample_size
        return importance(self.base_model, rows, samples, pad_id=self.pad_id, seed=self.seed)

    def _rows(self, dataset: Any) -> list[Row]:
        return rows_of(dataset, self.tokenizer, self.length)

    def _exam(self, dataset: Any) -> Exam:
        return Exam(self._rows(dataset), () if tokenised(dataset) else records_of(dataset))


def _size(dataset: Any) -> int | None:
    return None if dataset is None else len(dataset)


def _curves(journal: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The best curve through each text's looks, and, where it fits, what as many steps again would cost, in nats."""
    found = {name: forgetting_curve(journal, name) for name in names}
    steps = full_steps(journal)(max((line["step"] for line in journal), default=0))
    return {name: _told(fits[0], steps) for name, fits in found.items() if fits}


def _told(fit: Fit, steps: float) -> dict[str, Any]:
    cost = fit.cost(steps, steps)
    told = {"full_steps": steps, "nats": cost.mean, "low": cost.low, "high": cost.high}
    further = told if fit.r2 >= EXPLAINED else None
    quality = {"r2": fit.r2, "spread": fit.spread, "aicc": fit.aicc, "looks": fit.n}
    return {"curve": fit.name, "parameters": dict(fit.parameters), **quality, "as_much_again_costs": further}
