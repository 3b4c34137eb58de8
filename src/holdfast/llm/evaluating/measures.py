"""The guide's five metrics on examples, as scores of which every figure can be resampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast.data.formats import Completion, parse
from holdfast.evaluation.metrics import choice_accuracy, metrics
from holdfast.evaluation.metrics.answers import answers
from holdfast.evaluation.metrics.likelihood import f1_of
from holdfast.evaluation.metrics.registry import room
from holdfast.evaluation.metrics.written import bleu_of
from holdfast.evaluation.scored import Floats, Scored, ratio, same_examples
from holdfast.llm.evaluating.examples import Example
from holdfast.llm.evaluating.faults import NotApplicable

METRICS = {
    "perplexity": ("困惑度", 1000),
    "accuracy": ("准确率", 500),
    "f1": ("F1分数", 500),
    "bleu": ("BLEU分数", 100),
    "knowledge_retention": ("知识保留率", 200),
}
"""The guide's metrics: what it calls them, and on how many examples it measures them at most."""

LENGTH, WRITTEN = 512, 100
"""Most tokens of a window of text, and most new tokens of an answer."""

Labels = Mapping[Any, str] | Sequence[str] | None


class Sitting:
    """One model before the examples of one data set; what two metrics need is computed once.

    `before` gives the loss of the model before training on examples, which `knowledge_retention` compares with.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[Example],
        *,
        labels: Labels = None,
        prompt: str = "{text}",
        samples: Mapping[str, int],
        written: int = WRITTEN,
        before: Callable[[Sequence[Example]], Scored],
    ):
        self.model, self.tokenizer, self.examples = model, tokenizer, examples
        self.labels, self.prompt, self.samples = labels, prompt, samples
        self.written, self.before = written, before

    def scored(self, metric: str) -> Scored:
        """What the model does by a metric; raises NotApplicable with the reason where that says nothing."""
        found: Scored = getattr(self, f"_{metric}")
        if not np.isfinite(found.stats).all() or np.isnan(found.figure):
            raise ArithmeticError("the model's probabilities are not finite numbers")
        return found

    @cached_property
    def calibrated(self) -> Scored:
        """exp of minus the rise of the loss: the probability of a token relative to before, where 1 is all kept."""
        return Scored(self._both, _kept, "share", True)

    @cached_property
    def _perplexity(self) -> Scored:
        return losses_of(self.model, self.tokenizer, self._first("perplexity"), "perplexity")

    @cached_property
    def _accuracy(self) -> Scored:
        return choice_accuracy(self.model, self.tokenizer, self._choosing("accuracy"), normalised=True)

    @cached_property
    def _f1(self) -> Scored:
        tasks = self._choosing("f1")
        same = self.samples["f1"] == self.samples["accuracy"]
        chosen = self._accuracy if same else choice_accuracy(self.model, self.tokenizer, tasks, normalised=True)
        classes = {choice.strip() for task in tasks for choice in task.choices}
        return f1_of([task.completion.strip() for task in tasks], chosen.answers, classes)

    @cached_property
    def _bleu(self) -> Scored:
        known = [e for e in self._first("bleu") if e.targets and e.prompt is not None]
        if not known:
            raise NotApplicable("no example has target_texts")
        lines = any("\n" in target.strip() for example in known for target in example.targets)
        tasks = [Completion(str(example.prompt), "") for example in known]
        most = min(self.written, room(self.model) // 2)
        written = answers(self.model, self.tokenizer, tasks, max_new_tokens=most, stop=() if lines else ("\n",))
        return bleu_of(written, [example.targets for example in known])

    @cached_property
    def _knowledge_retention(self) -> Scored:
        return Scored(self._both, _retained, "share", True)

    @cached_property
    def _both(self) -> Floats:
        """Nats and tokens of each example before and now, [n, 4]."""
        examples = self._first("knowledge_retention")
        before, now = self.before(examples), losses_of(self.model, self.tokenizer, examples)
        same_examples(before, now)
        return np.concatenate([before.stats, now.stats], axis=-1)

    def _first(self, metric: str) -> Sequence[Example]:
        return self.examples[: self.samples[metric]]

    def _choosing(self, metric: str) -> list[Completion]:
        """Each labelled example as a choice between the labels that occur, or between all that were named."""
        labelled = [e for e in self._first(metric) if e.label is not None and e.prompt is not None]
        if not labelled:
            raise NotApplicable("no example has labels")
        if not all(isinstance(example.label, str | int | float) for example in labelled):
            raise NotApplicable("labels are not one number or text for each example")
        texts = [self._named(example.label) for example in labelled]
        common = sorted({*texts, *self._all_named()})
        if len({*common, *(choice for e in labelled for choice in e.choices)}) < 2:
            raise NotApplicable("only one label occurs, so there is nothing to choose between")
        return [self._choice(e, text, common) for e, text in zip(labelled, texts, strict=True)]

    def _choice(self, example: Example, right: str, common: Sequence[str]) -> Completion:
        if isinstance(example.record, Completion) and example.choices:
            return example.record
        asked = self.prompt.replace("{text}", str(example.prompt))
        made = parse({"prompt": asked, "answer": right, "choices": list(common)}, "the data set", 1)
        assert isinstance(made, Completion)
        return made

    def _named(self, label: Any) -> str:
        """The text that stands for a label; the label itself where nobody named it."""
        if isinstance(self.labels, Mapping):
            return str(self.labels.get(label, label))
        if self.labels is not None and isinstance(label, int) and 0 <= label < len(self.labels):
            return str(self.labels[label])
        return str(label)

    def _all_named(self) -> list[str]:
        if self.labels is None or any(example.choices for example in self.examples):
            return []
        return list(map(str, self.labels.values() if isinstance(self.labels, Mapping) else self.labels))


def losses_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], metric: str = "loss"
) -> Scored:
    """The loss or perplexity of whole examples, weighted by tokens, in windows of at most 512."""
    records = [example.record for example in examples]
    found = metrics[metric](model, tokenizer, records, length=min(LENGTH, room(model)))
    if not found.stats[:, 1].sum():
        raise NotApplicable("no text has a token to foretell")
    return found


def baseline_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Sequence[Example]], Scored]:
    """Losses of the model as it was when it was first asked about the examples: it may be trained in place later."""
    known: dict[str, Scored] = {}

    def losses(examples: Sequence[Example]) -> Scored:
        key = repr([example.record for example in examples])
        if key not in known:
            known[key] = losses_of(model, tokenizer, examples)
        return known[key]

    return losses


def _rise(sums: Floats) -> Floats:
    rise: Floats = ratio(sums[..., 2:]) - ratio(sums[..., :2])
    return rise


def _retained(sums: Floats) -> Floats:
    """2 - perplexity now / perplexity before."""
    with np.errstate(over="ignore"):
        found: Floats = 2 - np.exp(_rise(sums))
    return found


def _kept(sums: Floats) -> Floats:
    with np.errstate(over="ignore"):
        found: Floats = np.exp(-_rise(sums))
    return found
