"""EWC: weights are held back towards their start values, each by how much the old text depends on it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributed.tensor import DTensor

from holdfast._errors import BadInput, Unsupported
from holdfast.before import Base
from holdfast.data.rows import Row, collate
from holdfast.params.fisher import fisher, normalised
from holdfast.params.inventory import Param
from holdfast.remedies.pull import pull, refuse
from holdfast.rule import Kind, Move, Rule, State, rules
from holdfast.run import Run


@rules.register("ewc")
class EWC(Rule):
    """Minimises ½ strength Σ F (w - base)² besides the loss, as a pull after each optimiser step.

    F is the diagonal of the empirical Fisher information over `samples` rows of `source`, from per-example gradients,
    normalised to mean 1 so that strengths compare between models. On LoRA it belongs to the product s·BA, which is
    held back. Kirkpatrick et al. (2017), arXiv:1612.00796; on products, arXiv:2602.17559.
    """

    kind = Kind.PULL

    def __init__(
        self, source: Sequence[Row], strength: float = 100.0, samples: int = 256, batch_size: int = 8, pad_id: int = 0
    ):
        if strength < 0:
            raise BadInput(f"ewc: strength must not be negative, got {strength}.")
        if not source:
            raise BadInput("ewc: the source has no rows to measure importance on.")
        self.source, self.samples = source, samples
        self.strength: float = strength
        self.batch_size, self.pad_id = batch_size, pad_id
        self.importance: dict[str, Tensor] = {}
        self._base: Base | None = None

    def begin(self, run: Run) -> None:
        refuse(run, "ewc")
        if any(isinstance(t, DTensor) for t in run.tensors.values()):
            raise Unsupported("ewc measures importance on whole tensors, which FSDP2 splits; use plain data parallel.")
        device = next(iter(run.tensors.values())).device
        rows = self.source[: self.samples]
        batches = [
            {k: v.to(device) for k, v in collate(rows[i : i + self.batch_size], self.pad_id).items()}
            for i in range(0, len(rows), self.batch_size)
        ]
        paths = {_weighed(p) for p in run.params.values()}
        self.importance = normalised(fisher(run.model, batches, paths=paths))
        self._base = run.base

    def prepared(self) -> State:
        return {"importance": self.importance}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        if prepared is not None:
            device = next(iter(run.tensors.values())).device
            self.importance = {n: t.to(device) for n, t in prepared["importance"].items()}
        self._base = run.base

    def update(self, run: Run, move: Move) -> None:
        assert self._base is not None
        importance = self.importance[_weighed(move.param)]
        if move.param.lora is not None and move.param.lora.transposed:
            importance = importance.T
        pull(move, self._base.values, move.learning_rate * self.strength, importance)

    def end(self, run: Run) -> None:
        self._base, self.importance = None, {}


def _weighed(param: Param) -> str:
    """The path of the tensor whose importance counts: for a LoRA factor, the weight that its product is added to."""
    return param.path if param.lora is None else param.lora.target
