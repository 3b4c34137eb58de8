"""The evaluation framework of chapter 3: a model before and after fine-tuning, on what it is to keep and to learn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput
from holdfast.evaluation.balance import GUIDES, Balance, Pairs
from holdfast.evaluation.change import Change, change, guessed, judged
from holdfast.evaluation.plain import finite, write_json
from holdfast.evaluation.scored import Scored
from holdfast.llm.evaluating.faults import Misused
from holdfast.llm.evaluating.rates import interval

logger = logging.getLogger(__name__)

Told = dict[str, Any]
Kept = dict[str, Scored]


class ForgettingEvaluationFramework:
    """Evaluates on `reference_tasks` (to be kept) and `domain_tasks` (to be learnt), mappings of names to settings.

    `model_evaluator` is a `ModelEvaluator`, or any object with `evaluate_task(model=, task_name=, task_config=)` that
    returns a mapping with a "score" of which more is better. `evaluation_history` holds the records. Rates, balance and
    the rule of success are those of `balance` (by default the guide's weights and limits; `Balance.weights` weighs
    tasks). Where the evaluator keeps what each example contributed, paired changes with intervals and verdicts stand
    beside rates that know nothing of chance.

    A task that fails has an "error" in the place of its score and counts in no average; a mistake in its settings
    (BadInput) is raised.
    """

    def __init__(
        self,
        model_evaluator: Any,
        reference_tasks: Mapping[str, Any],
        domain_tasks: Mapping[str, Any],
        *,
        balance: Balance = GUIDES,
    ):
        self.model_evaluator, self.balance = model_evaluator, balance
        self.reference_tasks, self.domain_tasks = reference_tasks, domain_tasks
        self.evaluation_history: list[Told] = []
        self._before: tuple[Kept, Kept] = ({}, {})

    def evaluate_pre_finetuning(self, base_model: Any) -> Told:
        """Evaluate the base; its record, of type "baseline". What comes after is compared with the first of them."""
        print("执行微调前模型评估...")
        (reference, old), (domain, new) = self._evaluated(base_model)
        if self._baseline() is None:
            self._before = (old, new)
        return self._remembered(
            {
                "type": "baseline",
                "timestamp": datetime.now().isoformat(),
                "reference_results": reference,
                "domain_results": domain,
                "aggregated_metrics": self._aggregated(reference, domain),
            }
        )

    def evaluate_post_finetuning(self, finetuned_model: Any, checkpoint_name: str = "default") -> Told:
        """Evaluate a tuned model against the base; its record, of type "checkpoint".

        `forgetting_metrics` hold the guide's rates, never below 0, each with its sign under `signed_*`. Both metrics
        hold `changes` by task, in the unit of the figure, with intervals and verdicts (Holm). Raises Misused, which is
        a ValueError, before a baseline.
        """
        print("执行微调后模型评估...")
        baseline = self._baseline()
        if baseline is None:
            raise Misused("请先执行微调前评估: call evaluate_pre_finetuning(base_model) first.")
        (reference, old), (domain, new) = self._evaluated(finetuned_model)
        metrics = self._aggregated(reference, domain)
        forgetting = self.balance.forgetting(_pairs(baseline["reference_results"], reference))
        improvement = self.balance.improvement(_pairs(baseline["domain_results"], domain))
        old_changes = _changes(baseline["reference_results"], self._before[0], old)
        new_changes = _changes(baseline["domain_results"], self._before[1], new)
        return self._remembered(
            {
                "type": "checkpoint",
                "name": checkpoint_name,
                "timestamp": datetime.now().isoformat(),
                "reference_results": reference,
                "domain_results": domain,
                "aggregated_metrics": metrics,
                "forgetting_metrics": {**forgetting, "changes": old_changes},
                "improvement_metrics": {**improvement, "changes": new_changes},
                "overall_scores": self.balance.overall(metrics, forgetting, improvement),
            }
        )

    def generate_evaluation_report(self, output_file: str | Path | None = None) -> Told:
        """What was found so far, written as JSON where a file is named; the best checkpoint has the highest
        `stability_efficiency_score`. Raises Misused, which is a ValueError, before a baseline."""
        if not self.evaluation_history:
            raise Misused("没有评估历史记录: nothing was evaluated yet.")
        baseline = self._baseline()
        if baseline is None:
            raise Misused("找不到基线评估记录: call evaluate_pre_finetuning(base_model) first.")
        checkpoints = [record for record in self.evaluation_history if record["type"] == "checkpoint"]
        report: Told = finite(
            {
                "report_title": "LLM灾难性遗忘评估报告",
                "generation_time": datetime.now().isoformat(),
                "baseline_evaluation": baseline["aggregated_metrics"],
                "checkpoints": [_told(record) for record in checkpoints],
                "summary": _summary(checkpoints) if checkpoints else {},
            }
        )
        if output_file:
            Path(output_file).parent.mkdir(parents=True, exist_ok=True)
            write_json(report, Path(output_file))
            print(f"评估报告已保存至:{output_file}")
        return report

    def _evaluated(self, model: Any) -> tuple[tuple[Told, Kept], tuple[Told, Kept]]:
        return self._part(model, self.reference_tasks), self._part(model, self.domain_tasks)

    def _part(self, model: Any, tasks: Mapping[str, Any]) -> tuple[Told, Kept]:
        results, kept = {}, {}
        for name, config in tasks.items():
            print(f"  评估任务: {name}")
            results[name] = self._task(model, name, config)
            found = getattr(self.model_evaluator, "scored", {}).get(name)
            if "error" not in results[name] and found is not None:
                kept[name] = found
        return results, kept

    def _task(self, model: Any, name: str, config: Any) -> Told:
        try:
            found = self.model_evaluator.evaluate_task(model=model, task_name=name, task_config=config)
        except BadInput:
            raise
        except Exception as error:  # one task that fails is not to cost the others
            logger.warning("The task %s could not be evaluated: %s", name, error)
            return {"error": f"{type(error).__name__}: {error}"}
        return dict(found)

    def _aggregated(self, reference: Told, domain: Told) -> Told:
        metrics = self.balance.aggregated(_scores(reference), _scores(domain))
        return {**metrics, "reference_task_count": len(reference), "domain_task_count": len(domain)}

    def _baseline(self) -> Told | None:
        return next((record for record in self.evaluation_history if record["type"] == "baseline"), None)

    def _remembered(self, record: Told) -> Told:
        self.evaluation_history.append(record)
        return record


def _scores(results: Mapping[str, Told]) -> dict[str, float]:
    return {name: float(result["score"]) for name, result in results.items() if "score" in result}


def _pairs(before: Mapping[str, Told], after: Mapping[str, Told]) -> Pairs:
    first, last = _scores(before), _scores(after)
    return {name: (first[name], last[name]) for name in first if name in last}


def _changes(results: Mapping[str, Told], before: Kept, after: Kept) -> dict[str, Told]:
    """How much worse each task's figure got, over paired examples, and whether that is forgetting.

    Of a task that the base did no better than by guessing, nothing can be forgotten or called kept.
    """
    both = [name for name in before if name in after and before[name].higher is not None]
    found = {name: change(before[name], after[name], margin=results[name].get("margin")) for name in both}
    verdicts = judged(found)
    return {
        name: {
            "worse": interval(made.worse),
            "p": made.p,
            "margin": made.margin,
            "verdict": verdicts[name] if verdicts[name] == "improved" or _knew(results[name], made) else None,
        }
        for name, made in found.items()
    }


def _knew(result: Told, made: Change) -> bool:
    """Whether the base did better than by guessing; a score of nothing is no better."""
    return not guessed(made.before, result.get("chance"))


def _told(record: Told) -> Told:
    return {
        "name": record["name"],
        "timestamp": record["timestamp"],
        "metrics": record["aggregated_metrics"],
        "forgetting": record["forgetting_metrics"],
        "improvement": record["improvement_metrics"],
        "scores": record["overall_scores"],
    }


def _summary(checkpoints: Sequence[Told]) -> Told:
    scores = [record["overall_scores"] for record in checkpoints]
    best = max(checkpoints, key=lambda record: record["overall_scores"]["stability_efficiency_score"])
    return {
        "best_checkpoint": best["name"],
        "best_scores": best["overall_scores"],
        "avg_forgetting_rate": _mean([record["forgetting_metrics"]["overall_forgetting"] for record in checkpoints]),
        "signed_avg_forgetting_rate": _mean(
            [record["forgetting_metrics"]["signed_overall_forgetting"] for record in checkpoints]
        ),
        "avg_improvement_rate": _mean([record["improvement_metrics"]["overall_improvement"] for record in checkpoints]),
        "checkpoint_count": len(checkpoints),
        "success_rate": _mean([float(score["is_successful"]) for score in scores]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
