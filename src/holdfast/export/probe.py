"""Rows that a model is asked before and after, and how far two sets of answers lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.base import Base
from holdfast.data.formats import read
from holdfast.data.quiet import quiet
from holdfast.data.rows import encode

TEXT = "tiny/stories"
ROWS, DRAWN, LENGTH = 6, 2, 64
"""Rows of text, rows of random ids beside them, and tokens in a row, at most."""


@dataclass(frozen=True)
class Difference:
    """How far logits lie from those of the same model before.

    `largest` is the largest absolute difference, `spread` the standard deviation of the logits before, `flipped` the
    share of `positions` at which another token became the likeliest.
    """

    largest: float
    spread: float
    flipped: float
    positions: int

    @property
    def relative(self) -> float:
        """The largest difference as a share of the spread."""
        return self.largest / self.spread if self.spread else self.largest


def probe_rows(base: Base) -> list[list[int]]:
    """Rows of running text in the model's tokens, and of ids drawn from its whole vocabulary (always the same).

    The drawn ones reach tokens that the text has not; where the model knows fewer tokens than its tokenizer gives they
    are all there is.
    """
    model: Any = base.model
    embedding = model.get_input_embeddings()
    words = int(getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0])
    length = min(LENGTH, getattr(model.config.get_text_config(), "max_position_embeddings", None) or LENGTH)
    texts = [encode(record, base.tokenizer, length=length)[0][0]["input_ids"] for record in read(TEXT)[:ROWS]]
    generator = torch.Generator().manual_seed(0)
    drawn: list[list[int]] = torch.randint(words, (DRAWN, length), generator=generator).tolist()
    return [ids for ids in texts if len(ids) > 1 and max(ids) < words] + drawn


def logits_of(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """The logits at every position of the rows, one row at a time: float32 [positions, vocabulary], on the CPU.

    A decoder behind an encoder reads the same row as its encoder.
    """
    found = []
    with quiet(model) as device:
        for row in rows:
            ids = torch.tensor([list(row)], device=device)
            more = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
            found.append(model(input_ids=ids, **more).logits[0].float().cpu())
    return torch.cat(found)


def difference(before: Tensor, after: Tensor) -> Difference:
    """How far `after` lies from `before`, logits [positions, vocabulary] of the same rows; NaN counts as endless."""
    gap = (after - before).abs().nan_to_num(nan=torch.inf)
    flipped = (after.argmax(-1) != before.argmax(-1)).double().mean()
    return Difference(float(gap.max()), float(before.std()), float(flipped), len(before))
