"""Metrics: what a model does on examples, each a function by name; the same for any batch size."""

from holdfast.evaluation.metrics import likelihood, written  # noqa: F401  each enters its metrics
from holdfast.evaluation.metrics.likelihood import choice_accuracy
from holdfast.evaluation.metrics.registry import Metric, metrics
from holdfast.evaluation.metrics.written import exact_match

__all__ = ["Metric", "choice_accuracy", "exact_match", "metrics"]
