"""Selective: only what matters most to a text moves, by whole tensors or by single elements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from holdfast._errors import BadInput, Unsupported
from holdfast.data.rows import Row
from holdfast.params.importance import per_tensor, ranks
from holdfast.params.weights import local
from holdfast.rule import Kind, Move, Rule, State, rules
from holdfast.run import Run
from holdfast.strategies.measuring import weighed

By = Literal["tensor", "element"]


@rules.register("selective")
class Selective(Rule):
    """Only the most important move; everything else moves by exactly 0.0.

    Importance is `score` (fisher, gradient, mas, sensitivity, movement, magnitude) over the first `samples` rows of
    `source`, in `begin` and, where asked, again every `every` steps. By tensor: the `top` share of all tensors by mean
    score, at least one; the others have no gradient and no optimiser state. By element: the `top` share of all single
    weights of all tensors together (ties go to the earlier ones), as in sparse high-rank adapters, SHiRA
    (arXiv:2406.13175); that costs one bit of checkpoint and one byte of memory for each weight. `threshold`, where
    given, counts instead of `top`: those move whose rank in [0, 1] is at least this. While all scores are alike, all
    moves. With `score` None everything moves until you call `choose`.
    """

    kind = Kind.MASK

    def __init__(
        self,
        source: Sequence[Row] | None = None,
        score: str | None = "fisher",
        top: float = 0.1,
        threshold: float | None = None,
        by: By = "tensor",
        every: int | None = None,
        samples: int = 256,
        pad_id: int = 0,
    ):
        if not 0 < top <= 1 or not 0 <= (threshold or 0.0) <= 1:
            raise BadInput(f"selective needs 0 < top <= 1 and 0 <= threshold <= 1, not {top} and {threshold}.")
        if by not in ("tensor", "element") or (every is not None and every < 1):
            raise BadInput(f"selective goes by 'tensor' or 'element', every 1 or more steps, not {by!r}, {every}.")
        self.source, self.score, self.top, self.threshold = source, score, top, threshold
        self.by, self.every, self.samples, self.pad_id = by, every, samples, pad_id
        self.looks_back = by == "element"
        self._held: frozenset[str] = frozenset()
        self._masks: dict[str, Tensor] = {}

    def hooks(self) -> frozenset[str]:
        idle = {"update" if self.by == "tensor" else "holds", *([] if self.every else ["after"])}
        return super().hooks() - idle

    def begin(self, run: Run) -> None:
        if self.by == "element" and any(local(t).shape != t.shape for t in run.tensors.values()):
            raise Unsupported("selective ranks elements of whole tensors, which FSDP2 splits; go by tensor instead.")
        if self.score is not None:
            self._measure(run)

    def choose(self, importance: Mapping[str, Tensor]) -> None:
        """Select by these scores, path -> tensor of the parameter's shape; what has none moves freely."""
        if self.by == "element":
            self._masks = self._best_elements(importance)
        else:
            self._held = self._lesser_tensors(per_tensor(importance))

    def holds(self, run: Run) -> frozenset[str]:
        return self._held & run.params.keys()

    def update(self, run: Run, move: Move) -> None:
        mask = self._masks.get(move.param.path)
        if mask is not None:
            assert move.before is not None
            move.after.copy_(torch.where(mask, move.after, move.before))

    def after(self, run: Run) -> None:
        if self.every and self.score is not None and run.step % self.every == 0:
            self._measure(run)

    def prepared(self) -> State:
        return {} if self._changes else self._chosen()

    def state(self) -> State:
        return self._chosen() if self._changes else {}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        saved = state if self._changes else prepared
        if saved is not None:
            self._held = frozenset(saved["held"])
            self._masks = {n: _unpacked(t, run.tensors[n]) for n, t in saved["masks"].items()}
        if self._changes and prepared is not None and self.score == "movement":
            _ = run.base

    def end(self, run: Run) -> None:
        self._masks = {}

    @property
    def _changes(self) -> bool:
        return self.every is not None or self.score is None

    def _chosen(self) -> State:
        return {"held": sorted(self._held), "masks": {name: _packed(mask) for name, mask in self._masks.items()}}

    def _measure(self, run: Run) -> None:
        assert self.score is not None
        self.choose(weighed(run, self.score, self.source, self.samples, self.pad_id))

    def _lesser_tensors(self, scores: Mapping[str, float]) -> frozenset[str]:
        if len(set(scores.values())) < 2:
            return frozenset()
        if self.threshold is not None:
            return frozenset(name for name, rank in ranks(scores).items() if rank < self.threshold)
        ordered = sorted(scores, key=lambda name: -scores[name])
        return frozenset(ordered[math.ceil(self.top * len(ordered) - 1e-9) :])

    def _best_elements(self, importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        every = torch.cat([t.flatten() for t in importance.values()])
        count = math.ceil(self.top * len(every) - 1e-9)
        if self.threshold is not None:
            count = len(every) - math.ceil(self.threshold * (len(every) - 1) - 1e-9)
        if every.min() == every.max():
            return {}
        cut = every.kthvalue(len(every) - count + 1).values
        ties = count - int((every > cut).sum())
        masks = {}
        for name, scores in importance.items():
            level = (scores == cut).flatten().nonzero()[:ties]
            masks[name] = scores > cut
            masks[name].view(-1)[level] = True
            ties -= len(level)
        return masks


def _packed(mask: Tensor) -> Tensor:
    """Eight elements a byte, uint8 [ceil(n / 8)]."""
    bits = torch.nn.functional.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def _unpacked(packed: Tensor, like: Tensor) -> Tensor:
    """The mask in the shape of a tensor, bool."""
    packed = packed.to(like.device)
    bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=like.device)) & 1
    return bits.flatten()[: like.numel()].view(like.shape).bool()
