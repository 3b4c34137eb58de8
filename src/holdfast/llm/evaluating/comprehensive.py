"""The comprehensive evaluator of chapter 9: models on data sets by the guide's metrics, and what was forgotten."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import UnknownName
from holdfast.evaluation.plain import finite, write_json
from holdfast.evaluation.scored import Scored
from holdfast.evaluation.statistics import resampled
from holdfast.llm.evaluating.examples import examples_of, label_names
from holdfast.llm.evaluating.faults import NotApplicable
from holdfast.llm.evaluating.measures import METRICS, WRITTEN, Labels, Sitting, baseline_losses
from holdfast.llm.evaluating.pictures import Bar, bars, file_name
from holdfast.llm.evaluating.rates import Results, forgetting_rates, interval

logger = logging.getLogger(__name__)

USUAL = ("perplexity", "accuracy", "f1", "bleu")
"""What is measured where nothing is asked for."""


class ComprehensiveForgettingEvaluator:
    """Measures models on data sets; `evaluation_results` holds what each did, by its name.

    **Perplexity** is weighted by tokens, over whole texts in windows of at most 512. **Accuracy** and **F1** (macro)
    ask which label is the likeliest to follow the text, by log-likelihood per byte, among those that occur, or among
    all of `label_texts`: what numbered labels are called, a mapping or a sequence (a `datasets.Dataset` often says it
    itself). `prompt` may put words around the text: `"{text}\\nSentiment:"`. **BLEU** is sacrebleu's, over all answers,
    of the answer alone: greedy, at most `max_new_tokens`, of one line where all `target_texts` are. **Knowledge
    retention** is the guide's max(0, 2 - ratio of perplexities) to `baseline_model`, which is measured when a data set
    is first asked for and kept; beside it stands a calibrated one, exp(-rise of the loss): 1 where all is kept.

    At most as many examples are used as the guide uses; `samples` says otherwise, by metric. Models are left in the
    mode that they came in, and no random state changes.
    """

    def __init__(
        self,
        baseline_model: PreTrainedModel,
        baseline_tokenizer: PreTrainedTokenizerBase,
        *,
        label_texts: Labels = None,
        prompt: str = "{text}",
        samples: Mapping[str, int] | None = None,
        max_new_tokens: int = WRITTEN,
    ):
        self.baseline_model, self.baseline_tokenizer = baseline_model, baseline_tokenizer
        self.label_texts, self.prompt, self.max_new_tokens = label_texts, prompt, max_new_tokens
        _known(samples or ())
        self.samples = {metric: most for metric, (_, most) in METRICS.items()} | dict(samples or {})
        self.evaluation_results: dict[str, Results] = {}
        self._before = baseline_losses(baseline_model, baseline_tokenizer)

    def evaluate_model(
        self,
        model: PreTrainedModel,
        model_name: str,
        evaluation_datasets: Mapping[str, Any],
        metrics: Iterable[str] | None = None,
    ) -> Results:
        """Figures by data set and metric, for `{"dataset_name": dataset}`; kept under `model_name`.

        `metrics` are perplexity, accuracy, f1, bleu and knowledge_retention, without the last where none are named.
        Beside the figures of a data set stand their `intervals` (95 %, over examples); what does not apply stands with
        its reason under `not_applicable`, and what failed under `errors`: neither has a figure. What is returned can be
        paired by `calculate_forgetting_rate`. Raises UnknownName for a metric there is not, BadInput for data that
        cannot be read.
        """
        wanted = set(USUAL if metrics is None else metrics)
        _known(wanted)
        asked = [metric for metric in METRICS if metric in wanted]
        told: dict[str, dict[str, Any]] = {}
        scored: dict[str, dict[str, Scored]] = {}
        for name, dataset in evaluation_datasets.items():
            print(f"评估模型 {model_name} 在数据集 {name} 上的性能...")
            told[name], scored[name] = self._evaluated(
                self._sitting(model, dataset), [m for m in METRICS if m in asked]
            )
        self.evaluation_results[model_name] = Results(told, scored)
        return self.evaluation_results[model_name]

    def calculate_forgetting_rate(
        self, pretrained_results: Mapping[str, Any], finetuned_results: Mapping[str, Any]
    ) -> dict[str, Any]:
        """How much worse each figure is, at least 0 under its own name and with its sign under `signed_<metric>`.

        See `forgetting_rates` for averages, intervals and verdicts. Plain figures will do, from a file for example;
        they have no intervals.
        """
        return forgetting_rates(pretrained_results, finetuned_results)

    def generate_evaluation_report(self, output_file: str | Path | None = None) -> str:
        """All results as JSON, with forgetting rates where a "pretrained" and a "finetuned" model were evaluated."""
        results = self.evaluation_results
        report: dict[str, Any] = {"models_evaluated": list(results), "evaluation_details": results}
        if "pretrained" in results and "finetuned" in results:
            rates = self.calculate_forgetting_rate(results["pretrained"], results["finetuned"])
            report["forgetting_rates"] = rates
        return as_json(report, output_file, "评估报告已保存到")

    def visualize_results(
        self, metrics: Iterable[str] | None = None, output_dir: str | Path = "./visualizations"
    ) -> None:
        """Draw each metric on each data set, as `<metric>_<dataset>.png`; a model without that figure has no bar."""
        shown: dict[tuple[str, str], dict[str, Bar]] = {}
        for model, results in self.evaluation_results.items():
            for dataset, figures in results.items():
                for metric in (key for key, value in figures.items() if isinstance(value, int | float)):
                    shown.setdefault((metric, dataset), {})[model] = _bar(figures, metric)
        wanted = None if metrics is None else set(metrics)
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        for (metric, dataset), found in shown.items():
            if wanted is None or metric in wanted:
                name = Path(output_dir) / f"{file_name(metric)}_{file_name(dataset)}.png"
                print(f"图表已保存到: {bars(name, metric, dataset, found)}")

    def _sitting(self, model: PreTrainedModel, dataset: Any) -> Sitting:
        return Sitting(
            model,
            self.baseline_tokenizer,
            examples_of(dataset, max(self.samples.values())),
            labels=self.label_texts or label_names(dataset),
            prompt=self.prompt,
            samples=self.samples,
            written=self.max_new_tokens,
            before=self._before,
        )

    def _evaluated(self, sitting: Sitting, asked: Iterable[str]) -> tuple[dict[str, Any], dict[str, Scored]]:
        scored: dict[str, Scored] = {}
        missing: dict[str, str] = {}
        errors: dict[str, str] = {}
        for metric in asked:
            try:
                scored[metric] = sitting.scored(metric)
            except NotApplicable as reason:
                missing[metric] = str(reason)
            except Exception as error:  # whatever it is, the other metrics may still be told, and a run goes on
                logger.warning("%s could not be measured: %s", metric, error)
                errors[metric] = f"{type(error).__name__}: {error}"
            else:
                print(f"  {METRICS[metric][0]}: {_figure(metric, scored[metric]):.4f}")
        told: dict[str, Any] = {metric: _figure(metric, found) for metric, found in scored.items()}
        told["intervals"] = {metric: _interval(found) for metric, found in scored.items()}
        if "knowledge_retention" in scored:
            told["calibrated_knowledge_retention"] = _interval(sitting.calibrated)
        told |= {key: found for key, found in (("not_applicable", missing), ("errors", errors)) if found}
        return told, scored


def as_json(report: Mapping[str, Any], output_file: str | Path | None, said: str) -> str:
    """A report as JSON, written to a file where one is named; figures that are not finite become null."""
    if output_file:
        Path(output_file).parent.mkdir(parents=True, exist_ok=True)
        write_json(report, Path(output_file))
        print(f"{said}: {output_file}")
    return json.dumps(finite(report), indent=2, ensure_ascii=False)


def _known(metrics: Iterable[str]) -> None:
    for metric in metrics:
        if metric not in METRICS:
            raise UnknownName("metric of this evaluator called", metric, METRICS)


def _figure(metric: str, scored: Scored) -> float:
    return max(0.0, scored.figure) if metric == "knowledge_retention" else scored.figure


def _interval(scored: Scored) -> dict[str, Any]:
    return interval(resampled(scored.items().stats, scored.reduce))


def _bar(figures: Mapping[str, Any], metric: str) -> Bar:
    known = (figures.get("intervals") or {}).get(metric) or {}
    return float(figures[metric]), known.get("low"), known.get("high")
