"""MAS: weights are held back towards their start values, each by how much the model's answers depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast._errors import BadInput
from holdfast.data.rows import Row
from holdfast.params.fisher import normalised
from holdfast.params.scores import mas
from holdfast.remedies.anchor import Anchor, Earlier
from holdfast.remedies.carried import Importance
from holdfast.remedies.coefficients import Layers
from holdfast.remedies.diversity import spread
from holdfast.remedies.weighing import batched, paths
from holdfast.rule import rules
from holdfast.run import Run


@rules.register("mas")
class MAS(Anchor):
    """As `ewc`, with another importance: the mean over sequences of |d ||logits||² / d w|, normalised to mean 1.

    It needs no labels: `source` may be any text, the new task's prompts too. `importance`, `decay` and `layers` as in
    `Anchor`. Aljundi et al. (2018), arXiv:1711.09601, with the absolute value taken for each sequence by itself.
    """

    def __init__(
        self,
        source: Sequence[Row] | None = None,
        strength: float = 100.0,
        samples: int = 256,
        batch_size: int = 8,
        pad_id: int = 0,
        importance: Earlier = None,
        decay: float = 1.0,
        layers: Layers = None,
        folder: str | Path | None = None,
    ):
        super().__init__(strength, importance, decay, layers, folder)
        if not source and importance is None:
            raise BadInput("mas: there are no rows to measure importance on. Give it a `source`, or `importance`.")
        self.source, self.samples, self.batch_size, self.pad_id = source, samples, batch_size, pad_id

    def measured(self, run: Run) -> Importance | None:
        if not self.source:
            return None
        device = next(iter(run.tensors.values())).device
        rows = [self.source[i] for i in spread(len(self.source), self.samples)]
        batches = batched(rows, self.batch_size, self.pad_id, device)
        return normalised(mas(run.model, batches, paths=paths(run)))
