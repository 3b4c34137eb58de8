"""EWC: weights are held back towards their start values, each by how much the old text depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.data.rows import Row
from holdfast.params.fisher import fisher, normalised
from holdfast.params.own_labels import fisher_exact, fisher_sampled
from holdfast.remedies.anchor import Anchor, Earlier, on_device
from holdfast.remedies.carried import Importance
from holdfast.remedies.coefficients import Layers
from holdfast.remedies.diversity import spread
from holdfast.remedies.moments import check_adam, second_moments
from holdfast.remedies.weighing import batched, paths
from holdfast.rule import State, rules
from holdfast.run import Run

Estimator = Literal["empirical", "sampled", "exact", "adam"]
FISHER = {"empirical": fisher, "sampled": fisher_sampled, "exact": fisher_exact}


@rules.register("ewc")
class EWC(Anchor):
    """Minimises ½ strength Σ F (w - base)² besides the loss, as a pull after each optimiser step.

    F is the diagonal of the Fisher information over the first `samples` rows of `source`, normalised to mean 1, by one
    of four estimators: `empirical` takes the labels of the text, `sampled` draws them from the model, `exact` takes
    their expectation at four drawn positions (see `fisher_exact`), each from the gradient of a sequence by itself.
    `adam` reads no text: it takes the optimiser's second moment, squares of batch gradients of what is being trained on
    (arXiv:2507.18807), from an optimiser that comes with one, or after the first `warmup` steps, which nothing holds
    back; and again at the end, for the next task.

    `importance` (a file of a former run, or tensors by path) is that of earlier tasks, times `decay`; `layers` are
    factors of layers; see `Anchor`. On LoRA, F belongs to the product s·BA, which is held back; `adam` knows A and B
    apart only and is refused. Kirkpatrick et al. (2017), arXiv:1612.00796; on products, arXiv:2602.17559.
    """

    def __init__(
        self,
        source: Sequence[Row] | None = None,
        strength: float = 100.0,
        samples: int = 256,
        batch_size: int = 8,
        pad_id: int = 0,
        estimator: Estimator = "empirical",
        importance: Earlier = None,
        decay: float = 1.0,
        layers: Layers = None,
        warmup: int = 20,
        folder: str | Path | None = None,
    ):
        super().__init__(strength, importance, decay, layers, folder)
        if estimator not in get_args(Estimator):
            raise UnknownName("estimator", estimator, get_args(Estimator))
        if source is not None and not source:
            raise BadInput("ewc: the source has no rows to measure importance on.")
        if source is None and importance is None and estimator != "adam":
            raise BadInput("ewc: there is nothing to measure importance on. Give it a `source`, or `importance`.")
        self.source, self.samples, self.batch_size, self.pad_id = source, samples, batch_size, pad_id
        self.estimator, self.warmup = estimator, warmup
        self._collected = False

    def hooks(self) -> frozenset[str]:
        return super().hooks() - (set() if self.estimator == "adam" else {"after"})

    def measured(self, run: Run) -> Importance | None:
        if self.estimator == "adam":
            check_adam(run)
            return second_moments(run)
        if self.source is None:
            return None
        rows = [self.source[i] for i in spread(len(self.source), self.samples)]
        device = next(iter(run.tensors.values())).device
        batches = batched(rows, self.batch_size, self.pad_id, device)
        return normalised(FISHER[self.estimator](run.model, batches, paths=paths(run)))

    def after(self, run: Run) -> None:
        if not self.importance and run.step >= self.warmup:
            self.importance, self._collected = second_moments(run) or {}, True
            if not self.importance:
                raise Unsupported(
                    f"ewc: after {run.step} steps {type(run.optimizer).__name__} keeps no second moment `exp_avg_sq`, "
                    "so nothing could be held back; use another estimator, such as `sampled`."
                )

    def final(self, run: Run) -> Importance:
        if self.estimator != "adam":
            return self.importance
        return self.summed({} if self._collected else self.importance, second_moments(run))

    def prepared(self) -> State:
        return {"importance": {} if self._collected else self.importance}

    def state(self) -> State:
        return {"collected": self.importance if self._collected else {}}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        super().restore(run, prepared, state)
        if state["collected"] or self._collected:
            self.importance, self._collected = on_device(state["collected"], run), bool(state["collected"])
