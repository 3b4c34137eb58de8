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
from holdfast.rule import Kind, Move, Rule, rules
from holdfast.run import Run


@rules.register("migu")
class MIGU(Rule):
    """Of each linear layer inside the blocks, only the `top` share of outputs may move, at least one.

    For each token the absolute outputs of a layer are divided by their sum; the mean over all tokens of a step ranks
    the outputs, and the weights (and biases) of the others move by exactly 0.0. Outputs of equal size move together.
    Of a LoRA pair A and B are layers of their own. Embeddings, norms and the head move freely. It needs no old text and
    no task names. Du et al. (2024), arXiv:2406.17245, where gradients are masked; under Adam a masked gradient still
    moves weights, so here it is the movement.
    """

    kind, looks_back = Kind.MASK, True

    def __init__(self, top: float = 0.3):
        if not 0 < top <= 1:
            raise BadInput(f"migu: top is the share of outputs that may move, 0 < top <= 1, not {top}.")
        self.top = top
        self._sizes: dict[str, Tensor] = {}
        self._seen = -1
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
        size = self._sizes.get(layer)
        if size is None:
            return
        assert move.before is not None
        size = run.agreed(size)
        least = size.kthvalue(len(size) - math.ceil(self.top * len(size) - 1e-9) + 1).values
        free = size >= least
        across = isinstance(run.model.get_submodule(layer), Conv1D) or move.after.ndim == 1
        move.after.copy_(torch.where(free if across else free[:, None], move.after, move.before))

    def end(self, run: Run) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._sizes = [], {}

    def _hang(self, run: Run) -> None:
        inside = {n.rpartition(".")[0] for n, p in run.params.items() if p.layer is not None}
        layers = {n: m for n, m in run.model.named_modules() if n in inside and isinstance(m, nn.Linear | Conv1D)}
        self._handles = [m.register_forward_hook(partial(self._watch, run, name)) for name, m in layers.items()]

    @torch.no_grad()
    def _watch(self, run: Run, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        """Add up what a layer puts out while it trains; a new step begins anew."""
        if not module.training:
            return
        if self._seen != run.step:
            self._sizes, self._seen = {}, run.step
        sizes = output.detach().abs().float().flatten(0, -2)
        shares = sizes.div_(sizes.sum(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)).sum(0)
        self._sizes[name] = self._sizes[name] + shares if name in self._sizes else shares
