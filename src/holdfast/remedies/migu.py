"""MIGU: in each step only those rows of a linear layer move whose outputs are large on what is being learnt."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from holdfast._errors import BadInput, Unsupported
from holdfast.rule import REPLAYED, Kind, Move, Rule, Window, rules
from holdfast.run import Run


@rules.register("migu")
class MIGU(Rule):
    """Of each linear layer inside the blocks, only the `top` share of outputs may move, at least one.

    For each token the absolute outputs of a layer are divided by their sum; the mean over all tokens of the new rows of
    a step (no pads, no replayed rows) ranks the outputs, and the weights (and biases) of the others move by exactly
    0.0. Outputs of equal size move together. Of a LoRA pair A and B are layers of their own. Embeddings, norms and the
    head move freely. It needs no old text and no task names. Du et al. (2024), arXiv:2406.17245, where gradients are
    masked; under Adam a masked gradient still moves weights, so here it is the movement.
    """

    kind, looks_back = Kind.MASK, True

    def __init__(self, top: float = 0.3):
        if not 0 < top <= 1:
            raise BadInput(f"migu: top is the share of outputs that may move, 0 < top <= 1, not {top}.")
        self.top = top
        self._sizes: dict[str, Tensor] = {}
        self._seen, self._layers = -1, frozenset[str]()
        self._counted: Tensor | None = None
        self._handles: list[Any] = []

    def begin(self, run: Run) -> None:
        if any(isinstance(t, DTensor) for t in run.tensors.values()):
            raise Unsupported("migu ranks whole outputs, which FSDP2 splits; use plain data parallel.")
        self._hang(run)

    def restore(self, run: Run, prepared: object, state: object) -> None:
        self._sizes = {}
        if not self._handles:
            self._hang(run)

    def update(self, run: Run, move: Move) -> None:
        layer = move.param.path.rpartition(".")[0]
        if layer not in self._layers:
            return
        size = self._sizes.get(layer) if self._seen == run.step else None
        if size is None:
            raise Unsupported(
                f"migu: no forward pass of {layer} was seen in this step, so its outputs cannot be ranked. It needs "
                "batches, not ready gradients, and in a loop of your own the batches that `run.batch` gave."
            )
        assert move.before is not None
        size = run.agreed(size)
        least = size.kthvalue(len(size) - math.ceil(self.top * len(size) - 1e-9) + 1).values
        free = size >= least
        across = isinstance(run.model.get_submodule(layer), Conv1D) or move.after.ndim == 1
        move.after.copy_(torch.where(free if across else free[:, None], move.after, move.before))

    def end(self, run: Run) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._sizes, self._counted = [], {}, None

    def _hang(self, run: Run) -> None:
        inside = {n.rpartition(".")[0] for n, p in run.params.items() if p.layer is not None}
        layers = {n: m for n, m in run.model.named_modules() if n in inside and isinstance(m, nn.Linear | Conv1D)}
        self._layers = frozenset(layers)
        self._handles = [
            run.model.register_forward_pre_hook(partial(self._meet, run), with_kwargs=True),
            *(m.register_forward_hook(partial(self._watch, run, name)) for name, m in layers.items()),
        ]

    def _meet(self, run: Run, module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        """Note which positions of a forward pass are new text that is being learnt."""
        ids = args[0] if args else inputs.get("input_ids")
        learns = torch.is_grad_enabled() and not run.looking
        self._counted = _new(run.window or [inputs], ids) if learns and isinstance(ids, Tensor) else None

    @torch.no_grad()
    def _watch(self, run: Run, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        """Add up what a layer puts out on new text; a new step begins anew."""
        if self._counted is None:
            return
        if self._seen != run.step:
            self._sizes, self._seen = {}, run.step
        sizes = output.detach().abs().float()
        shares = sizes.div_(sizes.sum(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny))
        ours = shares[self._counted] if shares.shape[:-1] == self._counted.shape else shares.flatten(0, -2)
        total = ours.sum(0)
        self._sizes[name] = self._sizes[name] + total if name in self._sizes else total


def _new(window: Window, ids: Tensor) -> Tensor | None:
    """Which positions [rows, tokens] are new text, by the micro-batch that has these tokens; None where none has."""
    for batch in window:
        known = batch.get("input_ids", ids)
        if known.shape == ids.shape and torch.equal(known.to(ids.device), ids):
            mask = batch.get("attention_mask")
            counted = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(ids.device).bool()
            replayed = batch.get(REPLAYED)
            return counted if replayed is None else counted & ~replayed.to(ids.device)[:, None]
    return None
