"""Distillation: on replayed rows the model keeps predicting what the base predicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from holdfast._errors import BadInput, Unsupported
from holdfast.before import Base
from holdfast.rule import REPLAYED, Batch, Rule, rules
from holdfast.run import Run


@rules.register("distill")
class Distill(Rule):
    """Adds strength * KL(base || model), the mean over the tokens of the replayed rows, in nats.

    On rows that the base itself wrote, this divergence is the expected rise of the loss on such text: the last value
    stands in `divergence`. Needs a `replay` rule before it. Hinton et al. (2015), arXiv:1503.02531, at temperature 1.
    """

    def __init__(self, strength: float = 1.0):
        if strength < 0:
            raise BadInput(f"distill: strength must not be negative, got {strength}.")
        self.strength: float = strength
        self.divergence = float("nan")
        self._base: Base | None = None

    def begin(self, run: Run) -> None:
        if not any("batch" in rule.hooks() for rule in run.rules):
            raise Unsupported("distill works on replayed rows; put a `replay` rule before it.")
        self._base = run.base

    def restore(self, run: Run, prepared: object, state: object) -> None:
        self._base = run.base

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor | None:
        old = batch.get(REPLAYED)
        if old is None or not bool(old.any()):
            return None
        logits = outputs.get("logits")
        if logits is None or (torch.is_grad_enabled() and not logits.requires_grad):
            raise Unsupported("distill needs the model's logits, which this trainer's fused loss does not give.")
        assert self._base is not None
        rows = {k: v[old] for k, v in batch.items() if k != REPLAYED}
        real = rows["attention_mask"].bool() if "attention_mask" in rows else torch.ones_like(rows["input_ids"]).bool()
        divergence = token_kl(self._base(rows).logits[real], logits[old][real]).mean()
        self.divergence = float(divergence.detach())
        return self.strength * divergence

    def end(self, run: Run) -> None:
        self._base = None


def token_kl(base: Tensor, model: Tensor) -> Tensor:
    """KL(base || model) in nats per token, from logits [tokens, vocabulary], in float32."""
    reference, ours = log_softmax(base.float(), -1), log_softmax(model.float(), -1)
    return kl_div(ours, reference, log_target=True, reduction="none").sum(-1)
