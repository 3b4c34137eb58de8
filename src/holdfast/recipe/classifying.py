"""Classification in recipes: the head on the base, what measures it, and what it says about a text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.adapters.head import classifier, labels_of
from holdfast.data.classes import balanced, class_names, shares
from holdfast.data.formats import Completion
from holdfast.data.quiet import quiet
from holdfast.data.rows import Row
from holdfast.evaluation.classes import accuracy, constant, label_logits, macro_f1
from holdfast.evaluation.loss import SequenceLosses
from holdfast.params.heads import classifies
from holdfast.recipe.schema import Learn

CONSTANT = "the best constant guess: each label's share among the records learnt from; the base has no head"
"""What a gain counts from, in words."""

PLANNED: Sequence[str] = ("0", "1")
"""Labels of a classifier of which only names and shapes are asked, before any data are read."""


@dataclass(frozen=True)
class Classes:
    """The labels of a run: their names in the order of the logits, their weights in the loss, and their shares."""

    names: list[str]
    weights: list[float] | None
    shares: list[float]

    def reference(self, rows: Sequence[Row]) -> SequenceLosses:
        """What a gain on labelled rows counts from where the base has no head: the best constant guess."""
        return constant(rows, self.shares)


def classes(learn: Learn, records: Sequence[Completion]) -> Classes:
    """The labels of records to learn from; raises BadInput for labels that these cannot teach, and for weights."""
    names = class_names(records, learn.labels)
    weights: list[float] | None = None
    if learn.class_weights == "balanced":
        weights = balanced(records, names)
    elif not isinstance(learn.class_weights, str):
        weights = learn.class_weights
        if len(weights) != len(names):
            raise BadInput(
                f"`learn.class_weights` has {len(weights)} weights for {len(names)} labels. Give one each, in the "
                f"order of {', '.join(names)}."
            )
    return Classes(names, weights, shares(records, names))


def with_head(model: Any, name: str, pad_id: int, found: Classes | None, seed: int) -> Any:
    """A base as a classifier, of labels yet unknown where none are `found`.

    Raises BadInput for a base with an adapter that writes text, and for a classifier of other labels.
    """
    adapted = isinstance(model, PeftModel)
    if adapted and not classifies(model):
        raise BadInput(
            f"{name} is an adapter for writing text, and a head cannot be put on it. Merge it into its base first."
        )
    names, weights = (PLANNED, None) if found is None else (found.names, found.weights)
    if found is None and classifies(model):
        names = labels_of(model.config)
    inner = model.get_base_model() if adapted else model
    made = classifier(inner, names, pad_id=pad_id, weights=weights, seed=seed)
    return model if adapted else made


def padding(tokenizer: PreTrainedTokenizerBase, pad_id: int) -> PreTrainedTokenizerBase:
    """A tokenizer that names the token which the classifier's config pads with; no token is new."""
    if tokenizer.pad_token is not None:
        return tokenizer
    named = copy.deepcopy(tokenizer)
    named.pad_token = named.convert_ids_to_tokens(pad_id)
    return named


def said(model: Any, tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> str:
    """The label that a classifier gives a text, and how probable it finds it."""
    ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    with quiet(model):
        chances = label_logits(model, [{"input_ids": ids, "label": [0]}])[0].softmax(-1)
    best = int(torch.argmax(chances))
    return f"{labels_of(model.config)[best]} ({float(chances[best]):.0%})"


def judged(predictions: Any) -> dict[str, float]:
    """Accuracy and macro-F1 in the form that the Trainer asks for; nothing where rows are not labelled as a whole."""
    told, right = predictions.predictions, predictions.label_ids
    if right.ndim > 1:
        return {}
    labels = int(max(right.max(), told.max())) + 1
    found = {"accuracy": accuracy(right, told), "macro_f1": macro_f1(right, told, labels)}
    return {name: scored.figure for name, scored in found.items()}


def likeliest(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """The label that each row's logits favour; of logits of tokens, which nobody asks for, nothing is kept."""
    found = logits[0] if isinstance(logits, tuple) else logits
    return found.argmax(-1) if found.ndim == 2 else torch.zeros(len(found), device=found.device)
