"""How well a model predicts texts, alone or beside the base it came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text as Words

from holdfast._errors import BadInput
from holdfast.adapters.stored import load_adapted
from holdfast.base import Base
from holdfast.data.formats import read
from holdfast.data.probes import SELF, Probe
from holdfast.evaluation.loss import SequenceLosses, sequence_losses
from holdfast.evaluation.report.headline import between, change, nats, plain
from holdfast.evaluation.statistics import Interval, bootstrap, paired
from holdfast.recipe.reading import Reader


@dataclass(frozen=True)
class Score:
    """The loss of a model on a text, in nats per token; `rise` is the paired difference to a base, if any."""

    probe: Probe
    tokens: int
    loss: Interval
    rise: Interval | None = None


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
    Raises BadInput where the two have different tokenizers, so that their losses per token do not compare.
    """
    tuned = load_adapted(model)
    reference = tuned if base is None else load_adapted(base)
    if tuned.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise BadInput(f"{model} and {base} have different tokenizers: losses per token cannot be compared.")
    reader = Reader(reference, length, seed)
    return [_score(tuned, None if base is None else reference, _probe(reader, text, rows)) for text in texts]


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
    for column in ("rows", "tokens", "loss, nats per token", "perplexity", *(["against the base"] if compared else [])):
        table.add_column(column, justify="right")
    for score in scores:
        loss = score.loss
        cells = [f"{loss.mean:.3f}\n[{loss.low:.3f}, {loss.high:.3f}]", _perplexity(loss)]
        if score.rise is not None:
            rise = score.rise
            cells.append(f"{nats(rise.mean)} nats, {change(rise.mean)}\n{between(rise.low, rise.high, change)}")
        table.add_row(*(Words(t) for t in (score.probe.name, f"{loss.n:,}", f"{score.tokens:,}", *cells)))
    return table


def _perplexity(loss: Interval) -> str:
    mean, low, high = (math.exp(x) if x < 700 else math.inf for x in (loss.mean, loss.low, loss.high))
    return f"{plain(mean)}\n{between(low, high, plain)}"
