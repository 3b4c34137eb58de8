"""The forgetting monitor of chapter 9: a model under training, measured every so many steps against its base."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState

from holdfast._errors import BadInput
from holdfast.evaluation.plain import write_json
from holdfast.llm.evaluating.comprehensive import ComprehensiveForgettingEvaluator, as_json
from holdfast.llm.evaluating.measures import Labels
from holdfast.llm.evaluating.pictures import trend
from holdfast.llm.evaluating.rates import Results

logger = logging.getLogger(__name__)

HIGH = 0.3
"""The rate above which a warning is printed."""


class ForgettingMonitor:
    """Measures a model against its base as it trains; `monitoring_logs` holds what was seen.

    `metrics` and `label_texts` are those of `ComprehensiveForgettingEvaluator`. Where the base itself is trained in
    place, the baseline has to be taken before: `create_callback` does so when training begins. Nothing of the training
    changes: modes and random states stay, and the weights that come out are the same to the bit.
    """

    def __init__(
        self,
        base_model: PreTrainedModel,
        base_tokenizer: PreTrainedTokenizerBase,
        evaluation_datasets: Mapping[str, Any],
        *,
        metrics: Iterable[str] | None = None,
        label_texts: Labels = None,
    ):
        self.base_model, self.base_tokenizer = base_model, base_tokenizer
        self.evaluation_datasets = evaluation_datasets
        self.metrics = None if metrics is None else list(metrics)
        self.monitoring_logs: list[dict[str, Any]] = []
        self.baseline_results: Results | dict[str, Any] | None = None
        self._evaluator = ComprehensiveForgettingEvaluator(base_model, base_tokenizer, label_texts=label_texts)

    def establish_baseline(self) -> Results | dict[str, Any]:
        """Measure the base as it is now."""
        print("正在建立基线性能...")
        self.baseline_results = self._evaluated(self.base_model, "baseline")
        print("基线性能建立完成")
        return self.baseline_results

    def monitor(
        self,
        current_model: PreTrainedModel,
        step: int,
        epoch: float | None,
        save_checkpoint: bool = True,
        checkpoint_dir: str | Path = "./monitor_checkpoints",
    ) -> dict[str, Any]:
        """Measure a model and compare it with the baseline; its record is kept, and saved with the model if asked for.

        The warning above 0.3 goes by the signed average, which chance alone does not raise; by the guide's where no
        interval is known.
        """
        if self.baseline_results is None:
            self.establish_baseline()
        assert self.baseline_results is not None
        print(f"监控步骤 {step} (轮次 {epoch}) 的模型性能...")
        current = self._evaluated(current_model, f"step_{step}_epoch_{epoch}")
        rates = self._evaluator.calculate_forgetting_rate(self.baseline_results, current)
        record = {"step": step, "epoch": epoch, "evaluation_results": current, "forgetting_rates": rates}
        self.monitoring_logs.append(record)
        if save_checkpoint:
            self._save(current_model, record, Path(checkpoint_dir))
        if "overall_average" in rates:
            print(f"当前步骤的总体遗忘率: {rates['overall_average']:.4f}")
            if _signed(rates) > HIGH:
                print("警告: 遗忘率过高,考虑调整训练参数或使用正则化方法")
        return record

    def create_callback(
        self,
        eval_interval: int = 1000,
        save_checkpoint: bool = True,
        checkpoint_dir: str | Path = "./monitor_checkpoints",
    ) -> TrainerCallback:
        """A callback for any Trainer that calls `monitor` every `eval_interval` optimiser steps."""
        if eval_interval < 1:
            raise BadInput(f"eval_interval is a number of steps of at least 1, not {eval_interval}.")
        return ForgettingMonitorCallback(self, eval_interval, save_checkpoint, checkpoint_dir)

    def generate_monitoring_report(self, output_file: str | Path | None = None) -> str:
        """The baseline, all records and the trend of the overall rate, as JSON."""
        logs = self.monitoring_logs
        report: dict[str, Any] = {
            "baseline_results": self.baseline_results,
            "monitoring_logs": logs,
            "total_monitoring_steps": len(logs),
        }
        if logs:
            report["forgetting_trends"] = [_trend(log) for log in logs]
        return as_json(report, output_file, "监控报告已保存到")

    def visualize_forgetting_trends(self, output_file: str | Path = "./forgetting_trends.png") -> bool:
        """Draw the rates over steps, with the interval of the signed one; False where there are fewer than two logs."""
        if len(self.monitoring_logs) < 2:
            print("监控数据不足,无法生成趋势图")
            return False
        found = [log["forgetting_rates"] for log in self.monitoring_logs]
        names = dict.fromkeys(name for rates in found for name, own in rates.items() if "average" in _mapping(own))
        trend(
            output_file,
            [log["step"] for log in self.monitoring_logs],
            [rates.get("overall_average", 0) for rates in found],
            {name: [_mapping(rates.get(name)).get("average", 0) for rates in found] for name in names},
            [rates.get("signed_overall_average") for rates in found],
        )
        print(f"遗忘趋势图已保存到: {output_file}")
        return True

    def _evaluated(self, model: PreTrainedModel, name: str) -> Results:
        return self._evaluator.evaluate_model(model, name, self.evaluation_datasets, self.metrics)

    def _save(self, model: PreTrainedModel, record: Mapping[str, Any], folder: Path) -> None:
        """The model with its tokenizer, and the record, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"step_{record['step']}_epoch_{record['epoch']}"
        target, aside = folder / f"model_{name}", folder / f".model_{name}.part"
        shutil.rmtree(aside, ignore_errors=True)
        model.save_pretrained(aside)
        self.base_tokenizer.save_pretrained(aside)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
        log = folder / f"monitoring_log_{name}.json"
        write_json(record, log)
        print(f"检查点已保存到: {target}")
        print(f"监控记录已保存到: {log}")


class ForgettingMonitorCallback(TrainerCallback):
    """Has a monitor look at the model every so many optimiser steps; only the first process writes."""

    def __init__(
        self, monitor: ForgettingMonitor, eval_interval: int, save_checkpoint: bool, checkpoint_dir: str | Path
    ):
        self.monitor, self.eval_interval = monitor, eval_interval
        self.save_checkpoint, self.checkpoint_dir = save_checkpoint, checkpoint_dir

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Take the baseline, if nobody has: the base may be what is about to move."""
        if self.monitor.baseline_results is None:
            if state.global_step and kwargs.get("model") is self.monitor.base_model:
                logger.warning("The run goes on from step %d, and that is taken for the baseline.", state.global_step)
            self.monitor.establish_baseline()
        return control

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Look, where it is time."""
        model = kwargs.get("model")
        if model is not None and state.global_step > 0 and state.global_step % self.eval_interval == 0:
            save = self.save_checkpoint and state.is_world_process_zero
            self.monitor.monitor(model, state.global_step, state.epoch, save, self.checkpoint_dir)
        return control


def _signed(rates: Mapping[str, Any]) -> float:
    signed = rates.get("signed_overall_average")
    return float(rates["overall_average"] if signed is None else signed["mean"])


def _trend(log: Mapping[str, Any]) -> dict[str, Any]:
    rates = log["forgetting_rates"]
    return {
        "step": log["step"],
        "epoch": log["epoch"],
        "overall_forgetting": rates.get("overall_average", 0),
        "signed_overall_forgetting": rates.get("signed_overall_average"),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    """A data set's rates; an average over data sets stands beside them and is none."""
    return value if isinstance(value, Mapping) else {}
