"""How much of a model to freeze for a new text: its likeness to the old is measured, the rest is the guide's table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text as Words

from holdfast.adapters.stored import load_adapted
from holdfast.base import Base
from holdfast.data.formats import read
from holdfast.data.probes import Probe
from holdfast.data.rows import Row
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.statistics import Interval, bootstrap
from holdfast.params.inventory import inventory
from holdfast.recipe.reading import Reader


@dataclass(frozen=True)
class GuideRow:
    """A row of the guide's table 6.3: its ranges, as shares, and the LoRA rank that its 6.3 names for such a task."""

    size: str
    similarity: str
    freeze: tuple[float, float]
    train_top: tuple[float, float]
    less_forgetting: tuple[float, float]


SIZES = ("small (1-7B)", "medium (7-30B)", "large (>30B)")
BILLIONS = (7, 30)
"""Where the guide's sizes end, in billions of parameters."""
BANDS = ("high (>80 %)", "medium (50-80 %)", "low (<50 %)")
LIMITS = (0.8, 0.5)
"""Where the guide's bands of similarity end."""
RANKS = {BANDS[0]: (4, 8), BANDS[1]: (8, 16), BANDS[2]: (16, 32)}
"""LoRA ranks: the guide says 4-8 for like and 16-32 for unlike tasks; the middle is what lies between."""
TARGETS = {BANDS[0]: "[q_proj, v_proj]", BANDS[1]: "attention", BANDS[2]: "attention | mlp"}
"""LoRA targets by what they cost: the guide names these three, the cheapest first; unlike tasks take more."""
GUIDE = tuple(
    GuideRow(size, band, *(tuple(x / 100 for x in pair) for pair in figures))  # type: ignore[arg-type]
    for size, band, *figures in (
        (SIZES[0], BANDS[0], (50, 60), (20, 30), (15, 20)),
        (SIZES[0], BANDS[1], (60, 70), (15, 25), (20, 25)),
        (SIZES[0], BANDS[2], (70, 80), (10, 15), (25, 30)),
        (SIZES[1], BANDS[0], (70, 80), (10, 15), (20, 25)),
        (SIZES[1], BANDS[1], (80, 90), (5, 10), (25, 35)),
        (SIZES[1], BANDS[2], (85, 95), (2, 5), (30, 40)),
        (SIZES[2], BANDS[0], (80, 90), (5, 10), (25, 30)),
        (SIZES[2], BANDS[1], (90, 95), (2, 5), (30, 40)),
        (SIZES[2], BANDS[2], (95, 99), (1, 2), (35, 45)),
    )
)


@dataclass(frozen=True)
class Advice:
    """What was measured of a text, and what the guide says of such a case.

    `new` and `old` are the base's losses in nats per token on the new text and on what it knows; `overlap` is the share
    that the two texts' distributions over tokens have in common, `ceiling` that of two halves of the old one.
    """

    model: str
    parameters: int
    blocks: int
    new: Interval
    old: Interval
    overlap: float
    ceiling: float
    about: str

    @property
    def closeness(self) -> float:
        """Perplexity on the old text over that on the new one, at most 1."""
        return min(1.0, math.exp(self.old.mean - self.new.mean))

    @property
    def vocabulary(self) -> float:
        """Overlap of tokens, as a share of what chance leaves of it between halves of one text, at most 1."""
        return min(1.0, self.overlap / self.ceiling) if self.ceiling else 0.0

    @property
    def similarity(self) -> float:
        """The geometric mean of both, in [0, 1]; the guide does not say how it measures its own."""
        return math.sqrt(self.closeness * self.vocabulary)

    @property
    def row(self) -> GuideRow:
        """The row of the guide's table for this size and similarity; the smallest size stands for smaller ones too."""
        size = SIZES[sum(self.parameters >= limit * 1e9 for limit in BILLIONS)]
        band = BANDS[sum(self.similarity < limit for limit in LIMITS)]
        return next(row for row in GUIDE if (row.size, row.similarity) == (size, band))

    @property
    def frozen(self) -> int:
        """How many of the lowest blocks the middle of the guide's range freezes."""
        return math.floor(self.blocks * sum(self.row.freeze) / 2 + 1e-9)

    @property
    def rank(self) -> int:
        """The upper end of the guide's range of LoRA ranks."""
        return RANKS[self.row.similarity][1]

    @property
    def method(self) -> str:
        """Adapters on the blocks that are not frozen, as a recipe says it; on the MLPs, which forget less."""
        layers = f', layers: "layers({self.frozen}:)"' if self.frozen else ""
        return f"{{name: lora, rank: {self.rank}, alpha: {2 * self.rank}, targets: mlp{layers}}}"

    @property
    def select(self) -> str:
        """What to freeze, as a recipe says it."""
        return f"embedding | layers(0:{self.frozen})" if self.frozen else "embedding"


def advise(
    model: str | Path, data: str, *, old: str | None = None, rows: int = 64, length: int = 128, seed: int = 0
) -> Advice:
    """Measure how alike a new text is to what a model knows: `old`, or else text that the model makes up itself.

    At most `rows` rows of `length` tokens of each. Raises BadInput for what cannot be read.
    """
    base = load_adapted(model)
    reader = Reader(base, length, seed)
    new = reader.probe(data, read(data), data, most=rows)
    known = _known(reader, old, rows)
    losses = [_loss(base, probe) for probe in (new, known)]
    params = inventory(base.model)
    even, odd = known.rows[::2], known.rows[1::2]
    halves = [len(even), len(odd), len(new.rows)]
    return Advice(
        model=str(model),
        parameters=sum(p.numel for p in params),
        blocks=max((p.n_layers for p in params), default=0),
        new=losses[0],
        old=losses[1],
        overlap=shared(new.rows[: min(halves)], even[: min(halves)]),
        ceiling=shared(odd[: min(halves)], even[: min(halves)]),
        about=f"{data}, beside {old or 'text that the model made up itself'}",
    )


def shared(one: Sequence[Row], other: Sequence[Row]) -> float:
    """Σ min(p, q) over tokens, with p and q the shares of each token in two texts: 1 minus their total variation.

    >>> shared([{"input_ids": [1, 1, 2, 2]}], [{"input_ids": [2, 2, 2, 3]}])
    0.5
    """
    counts = [Counter(token for row in rows for token in row["input_ids"]) for rows in (one, other)]
    sums = [sum(count.values()) or 1 for count in counts]
    return sum(min(counts[0][t] / sums[0], counts[1][t] / sums[1]) for t in counts[0])


def _known(reader: Reader, old: str | None, rows: int) -> Probe:
    if old is None:
        return reader.made_up(2 * rows)["audit"]
    return reader.probe(old, read(old), old, most=rows)


def _loss(base: Base, probe: Probe) -> Interval:
    losses = sequence_losses(base.model, probe.rows, pad_id=base.pad_id)
    scored = losses.tokens > 0
    return bootstrap(losses.total[scored].numpy(), losses.tokens[scored].numpy())


def render_advice(advice: Advice) -> Table:
    """The advice as a table for the terminal, with what is measured and what is the guide's told apart."""
    table = Table("", "", "from", title=Words(f"{advice.model} and {advice.about}"), show_header=True)
    row, low = advice.row, advice.parameters < 1e9
    ranks = RANKS[row.similarity]
    cells = [
        ("parameters, blocks", f"{advice.parameters:,}, {advice.blocks}", "counted"),
        ("loss on the new text", _nats(advice.new), "measured"),
        ("loss on what it knows", _nats(advice.old), "measured"),
        ("perplexity, known / new", f"{advice.closeness:.0%}", "measured"),
        ("tokens in common", f"{advice.vocabulary:.0%}", "measured"),
        ("similarity", f"{advice.similarity:.0%}: {row.similarity}", "their geometric mean"),
        ("size", row.size + (", the nearest row for a smaller model" if low else ""), "the guide's table 6.3"),
        ("layers to freeze", _range(row.freeze), "the guide's table 6.3"),
        ("layers to train, from the top", _range(row.train_top), "the guide's table 6.3"),
        ("less forgetting, it expects", _range(row.less_forgetting), "the guide's table 6.3, not measured here"),
        ("or LoRA", f"rank {ranks[0]}-{ranks[1]}, alpha twice that", "the guide's 6.3"),
        ("on which layers", TARGETS[row.similarity], "the guide's 6.3"),
        ("under `rules`", f'- frozen: {{select: "{advice.select}"}}', "the middle of its range"),
        ("or as `method`", advice.method, "adapters above, on the MLPs: docs/methods.md"),
    ]
    for cell in cells:
        table.add_row(*map(Words, cell))
    return table


def _nats(loss: Interval) -> str:
    return f"{loss.mean:.3f} nats per token [{loss.low:.3f}, {loss.high:.3f}]"


def _range(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.0%} to {pair[1]:.0%}"
