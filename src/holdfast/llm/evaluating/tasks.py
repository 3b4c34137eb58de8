"""The model evaluator that the guide's framework asks for: a task is a suite, and has a score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast.base import Base
from holdfast.evaluation.comparison import as_score
from holdfast.evaluation.scored import Scored
from holdfast.evaluation.statistics import resampled
from holdfast.evaluation.suites import Suite, load_suite
from holdfast.llm.evaluating.rates import interval
from holdfast.llm.reading import records_of


class ModelEvaluator:
    """Scores a model on tasks; `scored` keeps what each example of a task contributed when it was last evaluated.

    A score is a figure of which more is better and 0 is nothing: a share as it is, a loss as the mean probability of a
    token. Examples of a task are read once. The model is left in the mode that it came in.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.scored: dict[str, Scored] = {}
        self._suites: dict[str, tuple[object, Suite]] = {}

    def evaluate_task(self, model: PreTrainedModel, task_name: str, task_config: Any) -> dict[str, Any]:
        """The model's `score` on a task, the `figure` in its `unit` with its 95 % `interval`, `n`, and the `metric`.

        `chance`, what guessing among choices would give, and `margin`, what still counts as kept, stand there where the
        suite has one.

        `task_config` is the name of a shipped suite, the path of a suite or of data, the mapping of a suite's file, in
        which `data` may also be a list of records, or a `Suite`. A figure of which neither more nor less is better
        gives no score but a reason under `not_applicable`. Raises what `load_suite` raises.
        """
        self.scored.pop(task_name, None)
        suite = self._suite(task_name, task_config)
        found = suite.score(Base(model, self.tokenizer, "model", ""))
        metric = suite.metric[0] if suite.settings.kind == "records" else f"lm_eval: {suite.settings.task}"
        told = {"figure": found.figure, "unit": found.unit, "n": len(found.items()), "metric": metric}
        known = {"chance": suite.chance, "margin": suite.settings.margin}
        told |= {key: value for key, value in known.items() if value is not None}
        if not math.isfinite(found.figure):
            return {**told, "error": f"the figure is {found.figure}: nothing could be scored, or the model is broken"}
        self.scored[task_name] = found
        told["interval"] = interval(resampled(found.items().stats, found.reduce))
        if found.higher is None:
            return {**told, "not_applicable": "neither more nor less of it is better, so it is no score"}
        return {"score": as_score(found), **told}

    def _suite(self, name: str, config: Any) -> Suite:
        known = self._suites.get(name)
        if known is None or known[0] != config:
            self._suites[name] = known = (config, _suite(name, config))
        return known[1]


def _suite(name: str, config: Any) -> Suite:
    if isinstance(config, Suite):
        return config
    data = config.get("data") if isinstance(config, Mapping) else None
    if data is None or isinstance(data, str | Path):
        return load_suite(config, name=name)
    rest = load_suite({key: value for key, value in config.items() if key != "data"}, name=name)
    return Suite(rest.name, rest.settings, None, tuple(records_of(data)))
