"""A retention budget: a text that must be kept, how far its loss may rise, and what two probes can tell of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from scipy.stats import t

from holdfast._errors import BadInput
from holdfast.data.rows import Row, documents, learnt
from holdfast.evaluation.loss import SequenceLosses

SCATTER = 7.0
"""Variance over documents, times tokens per document, of the rise, in multiples of the rise.

Measured: 2.4 for rows that are a text each, 6.9 for stories of five rows; 2 is the least that theory allows.
"""


SMALL = (
    "No text can be told to stay exactly as it was while weights move: give a small budget such as 0.001 (a rise of "
    "0.1 %), or freeze what must not change, by the rule `frozen`."
)
"""What to do instead of a budget of 0."""


@dataclass(frozen=True)
class Guard:
    """A text that must be kept: `budget` is the allowed rise of its perplexity (0.02: 2 %).

    `control` steers the run; `audits` is the number of documents of the audit probe that will judge it. Rows that do
    not say which document they are of count as one each. `before` are the losses on the control rows that the rise is
    counted from; None for those of the model that the run begins with.
    """

    name: str
    control: Sequence[Row]
    audits: int
    budget: float
    before: SequenceLosses | None = None

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise BadInput(f"The budget of {self.name} must be above 0, not {self.budget}. {SMALL}")
        if self.controls < 2 or self.audits < 2:
            raise BadInput(
                f"{self.name} is too short to be guarded: it needs at least two control and two audit documents."
            )
        if self.before is not None and len(self.before) != len(self.control):
            raise BadInput(f"{self.name} has {len(self.control)} control rows, but {len(self.before)} losses before.")

    @cached_property
    def controls(self) -> int:
        """The number of documents of the control probe."""
        return len(set(documents(self.control)))

    @property
    def limit(self) -> float:
        """The budget in nats per token."""
        return math.log1p(self.budget)

    @cached_property
    def tokens(self) -> float:
        """Tokens that bear loss, per document of the control probe."""
        return sum(learnt(row) for row in self.control) / self.controls

    def refuse(self, confidence: float) -> None:
        """Raise BadInput, with the number of documents that would do, for a budget that these probes cannot resolve.

        For weights whose divergence from the base is d nats per token, the log-ratio of the two models has a variance
        of about 2 d per token, and of `SCATTER` d over documents; that gives the spread before anything is trained.
        """
        spread, tokens = math.sqrt(SCATTER * self.limit / self.tokens), self.tokens
        if self.aim(spread, self.controls, confidence) > 0:
            return
        need = min(self.controls, self.audits)
        while _margin(spread, need, need, confidence) >= self.limit:
            need += 1 + need // 20
        raise BadInput(
            f"A budget of {self.budget:.2%} on {self.name} cannot be told from chance with {self.controls} "
            f"control and {self.audits} audit documents of {tokens:.0f} tokens; about {need:,} of each would do. "
            "Give it more text, or a larger budget."
        )

    def aim(self, spread: float, looked: int, confidence: float) -> float:
        """The highest mean rise, in nats, on `looked` documents that lets the certificate hold with this confidence.

        The certificate adds its own one-sided bound to the audit's mean, and that mean differs from the control's by
        chance: limit - t(95 %) se_audit - t(confidence) sqrt(se_looked² + se_audit²). `spread` is the standard
        deviation of the rise between documents.
        """
        return self.limit - _margin(spread, self.audits, looked, confidence)

    def target(self, rise: float, spread: float, confidence: float) -> float:
        """The rise on all control rows that is `aim` there, foretold from one rise and its spread between documents.

        The square of the spread grows with the rise: aim = limit - c sqrt(aim).
        """
        scatter = min(max(spread**2 / rise, 2 / self.tokens), 20 / self.tokens) if rise > 0 else SCATTER / self.tokens
        c = self.limit - self.aim(math.sqrt(scatter), self.controls, confidence)
        return ((math.sqrt(c**2 + 4 * self.limit) - c) / 2) ** 2

    def stretch(self, rise: float, spread: float, looked: int, confidence: float) -> float:
        """How many times the way from the base may grow (or, below 1, must shrink) until the rise meets its aim.

        Along that line the rise grows about with the square of the way, and the spread with the way itself.
        """
        if not math.isfinite(rise):
            return 0.0
        margin, rise = self.limit - self.aim(spread, looked, confidence), max(rise, 0.0)
        root = margin + math.sqrt(margin**2 + 4 * rise * self.limit)
        return 2 * self.limit / root if root else math.inf


def _margin(spread: float, audits: int, looked: int, confidence: float) -> float:
    """How far the mean of so many documents has to stay below the limit."""
    audit = spread / math.sqrt(audits)
    chance = math.hypot(audit, spread / math.sqrt(looked))
    return float(t.ppf(0.95, audits - 1) * audit + t.ppf(confidence, min(audits, looked) - 1) * chance)
