"""Tasks of lm-evaluation-harness as suites: its prompts and its scores, our pairing; nothing of it stays behind."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from holdfast._errors import BadInput, MissingExtra
from holdfast.base import Base
from holdfast.data.quiet import quiet
from holdfast.evaluation.scored import Scored, shares

PREFERRED = ("exact_match", "acc_norm", "acc", "f1", "em")
"""Metrics of a task in the order in which one is taken where none is named."""

SEQUENCES = 16
"""Sequences in a batch, the same for every model: scores of the harness move with it (EleutherAI issue 1645)."""


@dataclass
class Task:
    """A task of the harness, by its name or its YAML file."""

    name: str
    task: str
    metric: str | None
    items: int | None
    _samples: list[Mapping[str, Any]] = field(default_factory=list)

    def scored(self, base: Base) -> Scored:
        """One figure per item, paired by the harness's own numbering of documents.

        The harness sets all random states and leaves the model in evaluation mode; both are put back.
        """
        harness = _harness()
        config = base.model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None)
        with _untouched(base), quiet(base.model):
            wrapped = harness.models.huggingface.HFLM(
                pretrained=base.model, tokenizer=base.tokenizer, batch_size=SEQUENCES, max_length=longest
            )
            found = harness.simple_evaluate(
                model=wrapped,
                tasks=[self._task],
                task_manager=self._manager,
                limit=self.items,
                bootstrap_iters=0,
                log_samples=True,
                verbosity="ERROR",
            )
        task, samples = self._of_one_task(found["samples"])
        self._samples = samples
        known = [key for key, value in samples[0].items() if isinstance(value, int | float) and key != "doc_id"]
        wanted = (self.metric or "").partition(",")[0]
        named = wanted or next((metric for metric in PREFERRED if metric in known), "")
        if named not in known:
            raise BadInput(f"The task {self.task} has no metric {named!r} per item; it has {', '.join(known)}.")
        values = [float(sample[named]) for sample in samples]
        unit = "share" if all(0 <= value <= 1 for value in values) else named
        higher = found["higher_is_better"][task].get(named)
        return shares(values, answers=list(map(_answer, samples)), higher=higher, unit=unit)

    def _of_one_task(self, logged: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
        """The task's name and its samples, one for each document: those of the filter that the metric names.

        Raises BadInput for a group, and for several filters where none is named.
        """
        if len(logged) != 1:
            raise BadInput(f"{self.task} is a group of {', '.join(logged)}. Make a suite of each, or of some of them.")
        (task, samples), wanted = next(iter(logged.items())), (self.metric or "").partition(",")[2].strip()
        filters = list(dict.fromkeys(sample.get("filter", "none") for sample in samples))
        chosen = wanted or (filters[0] if len(filters) == 1 else "")
        if chosen not in filters:
            raise BadInput(
                f"The task {self.task} has the filters {', '.join(filters)}: name one with the metric, such as "
                f"`metric: exact_match,{filters[0]}`."
            )
        kept = [sample for sample in samples if sample.get("filter", "none") == chosen]
        return task, sorted(kept, key=lambda sample: sample["doc_id"])

    def check(self) -> None:
        """Raise BadInput for a task that there is not."""
        if isinstance(self._task, str) and self._task not in self._manager.all_tasks:
            raise BadInput(f"The suite {self.name!r}: lm-evaluation-harness has no task {self._task!r}.")

    def shown(self, i: int) -> tuple[str, str]:
        """Prompt and right answer of an item, after it was scored."""
        sample = self._samples[i]
        first = sample["arguments"]
        pair = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
        prompt = pair["arg_0"] if isinstance(pair, Mapping) else pair[0]
        return str(prompt), str(sample["target"])

    @cached_property
    def _task(self) -> str | dict[str, Any]:
        """The task as the harness takes it: a name that it knows, or the mapping of a file, its data beside it."""
        file = Path(self.task)
        if file.suffix not in (".yaml", ".yml"):
            return self.task
        try:
            mapping = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise BadInput(f"The task file {file} of suite {self.name!r} cannot be read: {error}.") from error
        if not isinstance(mapping, dict) or "task" not in mapping:
            raise BadInput(f"The task file {file} is no task of lm-evaluation-harness: it has no key `task`.")
        files = (mapping.get("dataset_kwargs") or {}).get("data_files")
        if isinstance(files, dict):
            mapping["dataset_kwargs"]["data_files"] = {s: str(_beside(file, given)) for s, given in files.items()}
        return mapping

    @cached_property
    def _manager(self) -> Any:
        """Looks tasks up; a file needs none of the harness's own, whose index takes half a minute."""
        return _harness().tasks.TaskManager(verbosity="ERROR", include_defaults=isinstance(self._task, str))


def harness_scored(name: str, task: str | None, metric: object, items: int | None) -> Task:
    """The task that a suite names; raises BadInput for a metric with knobs, which the harness has none of."""
    assert task is not None
    if metric is not None and not isinstance(metric, str):
        raise BadInput(f"The suite {name!r}: a metric of lm-evaluation-harness is a name, not {metric!r}.")
    return Task(name, task, metric, items)


def _harness() -> Any:
    os.environ.setdefault("HF_DATASETS_TRUST_REMOTE_CODE", "0")
    try:
        import lm_eval
        import lm_eval.models.huggingface
        import lm_eval.tasks
    except ImportError as error:
        raise MissingExtra("A suite of kind lm_eval", "evaluate") from error
    return lm_eval


@contextmanager
def _untouched(base: Base) -> Iterator[None]:
    """Random states of Python, NumPy and torch, and the tokenizer's pad token, are afterwards as before."""
    pad = base.tokenizer.pad_token
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        base.tokenizer.pad_token = pad


def _beside(file: Path, given: object) -> object:
    beside = file.parent / str(given)
    return beside if beside.exists() else given


def _answer(sample: Mapping[str, Any]) -> str:
    found = sample.get("filtered_resps") or sample.get("resps") or [""]
    if len(found) > 1 and all(isinstance(pair, tuple | list) for pair in found):
        likelihoods = [pair[0] for pair in found]
        return f"choice {likelihoods.index(max(likelihoods)) + 1}"
    return str(found[0])
