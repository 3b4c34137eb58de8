"""One score out of what was kept and what was learnt: rates, their balance, and the rule of success of the guide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Pairs = Mapping[str, tuple[float, float]]
"""Scores by name, before and after; more is better, 0 is nothing."""


@dataclass(frozen=True)
class Balance:
    """How keeping and learning are weighed, and when a model counts as a success.

    The weights, and forgetting below 20 %, improvement above 10 % and a base ability above 0.7, are conventions, not
    findings; none of them knows how sure a figure is. Verdicts with intervals stand beside them.
    """

    forgetting_weight: float = 0.6
    improvement_weight: float = 0.4
    most_forgetting: float = 0.2
    least_improvement: float = 0.1
    least_ability: float = 0.7
    high_forgetting: float = 0.3
    significant_improvement: float = 0.2

    weights: Mapping[str, float] = field(default_factory=dict)
    """What a task counts beside the others; 1 where nothing is said."""

    def scores(self, reference: Pairs, domain: Pairs) -> dict[str, Any]:
        """All parts below in one mapping."""
        after = ({name: last for name, (_, last) in pairs.items()} for pairs in (reference, domain))
        metrics = self.aggregated(*after)
        forgetting, improvement = self.forgetting(reference), self.improvement(domain)
        return {**metrics, **forgetting, **improvement, **self.overall(metrics, forgetting, improvement)}

    def forgetting(self, reference: Pairs) -> dict[str, Any]:
        """The share of its score that each reference task lost, at least 0, and with its sign under `signed_*`."""
        signed = {name: (before - after) / before if before > 0 else 0.0 for name, (before, after) in reference.items()}
        rates = {name: max(0.0, rate) for name, rate in signed.items()}
        first, last = self._sums(reference)
        overall = (first - last) / first if first > 0 else 0.0
        high = [name for name, rate in rates.items() if rate > self.high_forgetting]
        return {
            "avg_forgetting_rate": self._mean(rates),
            "signed_avg_forgetting_rate": self._mean(signed),
            "overall_forgetting": max(0.0, overall),
            "signed_overall_forgetting": overall,
            "task_forgetting_rates": rates,
            "signed_task_forgetting_rates": signed,
            "high_forgetting_tasks": high,
            "high_forgetting_count": len(high),
        }

    def improvement(self, domain: Pairs) -> dict[str, Any]:
        """The relative gain of each domain task; from nothing, the score itself."""
        rates = {n: (after - before) / before if before > 0 else after for n, (before, after) in domain.items()}
        first, last = self._sums(domain)
        significant = [name for name, rate in rates.items() if rate > self.significant_improvement]
        return {
            "avg_improvement_rate": self._mean(rates),
            "overall_improvement": (last - first) / first if first > 0 else last,
            "task_improvement_rates": rates,
            "significant_improvement_tasks": significant,
            "significant_improvement_count": len(significant),
        }

    def overall(
        self, metrics: Mapping[str, Any], forgetting: Mapping[str, Any], improvement: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Balance = weighted mean of 1 - forgetting and min(1, 0.5 + improvement / 2); times the mean score."""
        kept = 1 - forgetting["overall_forgetting"]
        gained = min(1.0, 0.5 + 0.5 * improvement["overall_improvement"])
        balance = self.forgetting_weight * kept + self.improvement_weight * gained
        return {
            "balance_score": balance,
            "stability_efficiency_score": metrics["overall_score"] * balance,
            "is_successful": bool(
                forgetting["overall_forgetting"] < self.most_forgetting
                and improvement["overall_improvement"] > self.least_improvement
                and metrics["avg_reference_score"] > self.least_ability
            ),
            "forgetting_score": kept,
            "improvement_score": gained,
        }

    def aggregated(self, reference: Mapping[str, float], domain: Mapping[str, float]) -> dict[str, Any]:
        """Mean scores of reference and domain tasks, and the mean of the two (0 where there is none)."""
        old, new = self._mean(reference), self._mean(domain)
        return {
            "avg_reference_score": old,
            "avg_domain_score": new,
            "overall_score": (old + new) / 2,
            "reference_task_count": len(reference),
            "domain_task_count": len(domain),
        }

    def _mean(self, values: Mapping[str, float]) -> float:
        total = sum(map(self._weight, values))
        return sum(self._weight(name) * value for name, value in values.items()) / total if values else 0.0

    def _sums(self, pairs: Pairs) -> tuple[float, float]:
        """Of the scores before, and of those after."""
        return tuple(sum(self._weight(name) * pair[i] for name, pair in pairs.items()) for i in (0, 1))  # type: ignore

    def _weight(self, name: str) -> float:
        return self.weights.get(name, 1.0)


GUIDES = Balance()
"""The guide's weights and limits."""
