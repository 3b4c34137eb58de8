"""Distillation: on replayed rows, or on new ones, the model keeps predicting what the base predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.before import Base
from holdfast.params.select import Select, parse
from holdfast.remedies.divergence import DIRECTIONS, Likeliest
from holdfast.remedies.reach import reaching, refuse
from holdfast.remedies.teacher import Answers
from holdfast.rule import REPLAYED, Batch, Rule, Window, rules
from holdfast.run import Run


@rules.register("distill")
class Distill(Rule):
    """Adds strength * divergence of the model from the base, the mean over the tokens that `where` names, in nats.

    The mean is over all micro-batches of a step together, so that it does not matter how a step is cut into them.

    `where` is `replay` (needs a `replay` rule before it), `answers` (of the replayed rows only the tokens before those
    that are learnt, all where none is: what a tuned model says inside a prompt is not worth keeping, and to hold it
    costs learning), `new` (all tokens of the new rows: learning without forgetting, Li & Hoiem, 2016, arXiv:1606.09282)
    or `prompts` (of the new rows, where nothing is learnt). `direction`
    is `forward`, KL(base || model), `reverse`, KL(model || base), or `logits`, their mean squared difference (DER,
    arXiv:2004.07211). At a `temperature` T the divergence is that of softmax(logits / T), times T² in the loss. Hinton
    et al. (2015), arXiv:1503.02531. The base is the model that the run began with: in a sequence, the one before.

    On rows that the base itself wrote, the forward divergence at temperature 1 is the expected rise of the loss on such
    text: the last value stands in `divergence`.

    With `top` the base is asked about a row once: its `top` likeliest logits and the mass of all others are kept, up to
    `cache` MiB, in `folder` if there is one. `answers` are ones kept from earlier models; about other rows the base is
    asked. `layers`, a selection, lets the divergence reach only those parameters, by a forward pass of its own.
    """

    def __init__(
        self,
        strength: float = 1.0,
        direction: str = "forward",
        where: str = "replay",
        temperature: float = 1.0,
        top: int | None = None,
        cache: float = 256.0,
        layers: Select | str | None = None,
        answers: Answers | None = None,
        folder: str | Path | None = None,
    ):
        if strength < 0:
            raise BadInput(f"distill: strength must not be negative, got {strength}.")
        if not temperature > 0 or (top is not None and top < 1):
            raise BadInput(f"distill needs temperature > 0 and top >= 1, not {temperature} and {top}.")
        for kind, name, known in (("direction", direction, DIRECTIONS), ("kind of tokens", where, TOKENS)):
            if name not in known:
                raise UnknownName(f"{kind} to distill called", name, known)
        if answers is not None and answers.temperature != temperature:
            raise BadInput(f"distill: the answers were kept at temperature {answers.temperature}, not {temperature}.")
        self.strength: float = strength
        self.direction, self.where, self.temperature, self.top = direction, where, temperature, top
        self.layers = parse(layers) if isinstance(layers, str) else layers
        self.divergence = float("nan")
        self._own = answers is None and top is not None
        self._answers = Answers(top, temperature, cache, folder) if answers is None and top else answers
        self._base: Base | None = None
        self._counted: tuple[Window, float] = ([], 0.0)

    def begin(self, run: Run) -> None:
        if self.where in ("replay", "answers") and not any("batch" in rule.hooks() for rule in run.rules):
            raise Unsupported("distill works on replayed rows; put a `replay` rule before it, or set `where: new`.")
        if self._answers is not None and any(isinstance(t, DTensor) for t in run.tensors.values()):
            raise Unsupported("distill: FSDP2 needs all processes to ask at once; leave `top` away, or use DDP.")
        if self.layers is not None:
            refuse(run, "distill", self.layers)
        self._base = run.base

    def restore(self, run: Run, prepared: object, state: object) -> None:
        self._base = run.base

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor | None:
        tokens = _tokens(batch, self.where)
        chosen = tokens.any(1)
        if not bool(chosen.any()):
            return None
        rows = {k: v[chosen] for k, v in batch.items() if k != REPLAYED}
        kept = tokens[chosen]
        teacher = self._teacher(rows, kept)
        if self.layers is not None:
            ours = reaching(run, self.layers, {k: v for k, v in rows.items() if k != "labels"}).logits
        else:
            ours = _logits(outputs)[chosen]
        divergence = DIRECTIONS[self.direction](teacher, ours[kept], self.temperature)
        self.divergence = float(divergence.detach().mean())
        return self.strength * self.temperature**2 * divergence.sum() / self._usual(run, kept)

    def end(self, run: Run) -> None:
        self._base, self._counted = None, ([], 0.0)
        if self._answers is not None and self._own:
            self._answers.close()

    def _usual(self, run: Run, kept: Tensor) -> float:
        """Tokens of the mean micro-batch of this step; of this one, where the host did not say which there are."""
        if self._counted[0] is not run.window:
            tokens = sum(int(_tokens(batch, self.where).sum()) for batch in run.window)
            self._counted = run.window, tokens / max(len(run.window), 1)
        return self._counted[1] or float(kept.sum())

    def _teacher(self, rows: Batch, kept: Tensor) -> Tensor | Likeliest:
        """What the base says about the kept tokens, [tokens] of all or of its likeliest answers."""
        base = self._base
        assert base is not None
        if self._answers is None:
            logits: Tensor = base(rows).logits
            return logits[kept]
        real = _real(rows)
        ids = [row[mask] for row, mask in zip(rows["input_ids"], real, strict=True)]
        said = self._answers.about(ids, lambda asked: base({"input_ids": asked}).logits)
        which = kept[real]
        return Likeliest(said.values[which], said.indices[which], said.rest[which])


def _logits(outputs: Any) -> Tensor:
    logits: Tensor | None = outputs.get("logits")
    if logits is None or (torch.is_grad_enabled() and not logits.requires_grad):
        raise Unsupported("distill needs the model's logits, which this trainer's fused loss does not give.")
    return logits


def _real(batch: Batch) -> Tensor:
    """Which tokens are not padding, bool [rows, length]."""
    return batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(batch["input_ids"]).bool()


def _tokens(batch: Batch, where: str) -> Tensor:
    """The tokens that `where` names, bool [rows, length]."""
    real = _real(batch)
    old = batch.get(REPLAYED, torch.zeros(len(real), dtype=torch.bool, device=real.device))
    return TOKENS[where](real, old[:, None], batch)


def _unlearnt(real: Tensor, batch: Batch) -> Tensor:
    """Tokens after which stands one that is not learnt."""
    followed = torch.zeros_like(real)
    followed[:, :-1] = real[:, 1:] & (batch["labels"][:, 1:] == -100)
    return real & followed


def _answering(real: Tensor, batch: Batch) -> Tensor:
    """Tokens after which stands one that is learnt, and all tokens of rows of which nothing is."""
    learnt = batch["labels"] != -100
    return real & (learnt.roll(-1, 1) | ~learnt.any(1, keepdim=True))


TOKENS: Mapping[str, Callable[[Tensor, Tensor, Batch], Tensor]] = {
    "replay": lambda real, old, batch: real & old,
    "answers": lambda real, old, batch: _answering(real, batch) & old,
    "new": lambda real, old, batch: real & ~old,
    "prompts": lambda real, old, batch: _unlearnt(real, batch) & ~old,
}
"""Which tokens the divergence is taken on, by the name that recipes use."""
