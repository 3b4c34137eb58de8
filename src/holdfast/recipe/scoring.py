"""How well a model predicts texts, alone or beside the base it came from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text as Words

from holdfast._errors import BadInput
from holdfast.adapters.head import labels_of
from holdfast.adapters.stored import load_adapted
from holdfast.base import Base
from holdfast.data.classes import class_rows, is_labelled, labelled
from holdfast.data.formats import read
from holdfast.data.probes import SELF, Probe
from holdfast.evaluation.classes import class_entry
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.report.headline import between, change, nats, plain
from holdfast.evaluation.statistics import Interval, bootstrap, paired
from holdfast.params.heads import classifies
from holdfast.recipe.reading import Reader


@dataclass(frozen=True)
class Score:
    """The loss of a model on a text, in nats per token; `rise` is the paired difference to a base, if any.

    Of labelled rows it is the loss of the label, and `labels` holds what there is more to say (see `class_entry`).
    """

    probe: Probe
    tokens: int
    loss: Interval
    rise: Interval | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)


def score(
    model: str | Path,
    texts: Sequence[str],
    *,
    base: str | Path | None = None,
    length: int = 128,
    rows: int = 1024,
    seed: int = 0,
) -> list[Score]:
    """Score a model (base, run's `final/`, adapter) on texts, at most so many rows of `length` tokens of each.

    With `base` both read the same rows, made as the base likes them best, and `self` is text that the base makes up.
    A classifier is scored by its labels on texts that have labels (`text` and `label`), without the base. Raises
    BadInput where the two have different tokenizers, so that their losses per token do not compare.
    """
    tuned = load_adapted(model)
    reference = tuned if base is None else load_adapted(base)
    if tuned.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise BadInput(f"{model} and {base} have different tokenizers: losses per token cannot be compared.")
    reader = Reader(reference, length, seed)
    beside = None if base is None else reference

    def scored(text: str) -> Score:
        if classifies(tuned.model) and text != SELF and is_labelled(text):
            return _labelled(tuned, text, length, rows)
        return _score(tuned, beside, _probe(reader, text, rows))

    return [scored(text) for text in texts]


def _labelled(tuned: Base, text: str, length: int, rows: int) -> Score:
    names = labels_of(tuned.model.config)
    records = labelled(text, split="test", names=names)[:rows]
    probe = Probe(text, class_rows(records, names, tuned.tokenizer, length=length), text)
    return replace(_score(tuned, None, probe), labels=class_entry(tuned.model, probe.rows, pad_id=tuned.pad_id))


def _probe(reader: Reader, text: str, rows: int) -> Probe:
    if text == SELF:
        return reader.made_up(2 * rows)["audit"]
    return reader.probe(text, read(text, split="test"), text, most=rows)


def _score(tuned: Base, base: Base | None, probe: Probe) -> Score:
    after = _losses(tuned, probe)
    scored = after.tokens > 0
    loss = bootstrap(after.total[scored].numpy(), after.tokens[scored].numpy())
    rise = None if base is None else paired(_losses(base, probe), after)
    return Score(probe, int(after.tokens.sum()), loss, rise)


def _losses(base: Base, probe: Probe) -> SequenceLosses:
    return sequence_losses(base.model, probe.rows, pad_id=base.pad_id)


def render_scores(scores: Sequence[Score]) -> Table:
    """The scores as a table for the terminal."""
    table = Table("text")
    table.caption = Words("[…] 95 % interval, from a bootstrap over documents")
    compared = any(score.rise is not None for score in scores)
    classified = any(score.labels for score in scores)
    more = [*(["against the base"] if compared else []), *(["accuracy, macro-F1"] if classified else [])]
    for column in ("rows", "tokens", "loss, nats per token", "perplexity", *more):
        table.add_column(column, justify="right")
    for score in scores:
        loss = score.loss
        cells = [f"{loss.mean:.3f}\n[{loss.low:.3f}, {loss.high:.3f}]", _perplexity(loss)]
        if score.rise is not None:
            rise = score.rise
            cells.append(f"{nats(rise.mean)} nats, {change(rise.mean)}\n{between(rise.low, rise.high, change)}")
        elif compared:
            cells.append("")
        if score.labels:
            cells.append(_told(score.labels))
        table.add_row(*(Words(t) for t in (score.probe.name, f"{loss.n:,}", f"{score.tokens:,}", *cells)))
    return table


def _told(labels: Mapping[str, Any]) -> str:
    low, high = labels["accuracy_low"], labels["accuracy_high"]
    return f"{labels['accuracy']:.1%} [{low:.1%}, {high:.1%}]\n{labels['macro_f1']:.3f}"


def _perplexity(loss: Interval) -> str:
    mean, low, high = (math.exp(x) if x < 700 else math.inf for x in (loss.mean, loss.low, loss.high))
    return f"{plain(mean)}\n{between(low, high, plain)}"
