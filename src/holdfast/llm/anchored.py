"""Trainers that hold weights back: L2-SP and EWC with the λ of their penalty forms."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from holdfast._errors import BadInput, UnknownName
from holdfast.data.rows import Row
from holdfast.llm.trainers import TextTrainer
from holdfast.params.inventory import inventory
from holdfast.remedies.carried import plain, weighed
from holdfast.remedies.coefficients import Layers
from holdfast.remedies.ewc import EWC, FISHER
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.progressive import Progressive
from holdfast.remedies.weighing import batched
from holdfast.rule import Rule

logger = logging.getLogger(__name__)

Importance = dict[str, Tensor]

ROOM, FAR = 10, 100
"""Steps' worth of way that a weight of mean importance needs to learn anything, and to learn a lot."""


class L2RegularizedTrainer(TextTrainer):
    """Minimises the loss + `l2_lambda` Σ (w - start)², with the rule `l2sp` of strength 2 `l2_lambda`.

    Under plain SGD the rule's pull is the step of that penalty, to first order in the learning rate; under Adam a
    penalty is divided by the size of all gradients and a pull is not, see docs/anchors.md. The start is the model that
    `train` begins with. `layers` are factors of layers, and over the first `progressive` steps the strength grows
    evenly from 0. Other arguments as for `TextTrainer`. Raises BadInput for a λ below 0. Li et al. (2018),
    arXiv:1802.01483.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        l2_lambda: float = 1e-4,
        *,
        layers: Layers = None,
        progressive: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(model, args, **kwargs)
        self.l2_lambda = l2_lambda
        self.rules.append(over_time(L2SP(2 * l2_lambda, layers), progressive))


class EWCTrainer(TextTrainer):
    """Minimises the loss + ½ `ewc_lambda` Σ F (w - start)², with the rule `ewc` of strength `ewc_lambda`.

    F, in `fisher_diag`, is the diagonal Fisher information in squared nats per sequence, as it was measured;
    `compute_fisher` measures it, and `train` raises BadInput without it. `estimator` says how: `sampled` draws labels
    from the model, `empirical` takes those of the text, `exact` takes their expectation (see docs/anchors.md). The
    start, `layers`, `progressive` and what Adam makes of λ are as in `L2RegularizedTrainer`. Raises BadInput for a λ
    below 0, UnknownName for an estimator that there is not. Kirkpatrick et al. (2017), arXiv:1612.00796.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        ewc_lambda: float = 5e4,
        fisher_n_samples: int = 1000,
        *,
        estimator: str = "sampled",
        layers: Layers = None,
        progressive: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(model, args, **kwargs)
        if ewc_lambda < 0 or fisher_n_samples < 1:
            raise BadInput(f"EWC needs a λ of at least 0 and a sample, not {ewc_lambda} and {fisher_n_samples}.")
        if estimator not in FISHER:
            raise UnknownName("estimator", estimator, FISHER)
        self.ewc_lambda, self.fisher_n_samples, self.estimator = ewc_lambda, fisher_n_samples, estimator
        self.fisher_diag: Importance | None = None
        self._layers, self._progressive = layers, progressive
        self._anchor: Rule | None = None

    def compute_fisher(self, dataset: Any, device: str | torch.device | None = None) -> Importance:
        """Measure F at the present weights on `fisher_n_samples` rows, drawn by the seed; by path, without PEFT.

        A `dataset` is read as one to train on. `device` is where it is measured (None: where the model is). What trains
        counts, and of LoRA the weights below its factors. Measured again, it replaces what was there.
        """
        logger.info("计算Fisher信息矩阵...")
        home = next(self.model.parameters()).device
        if device is not None:
            self.model.to(device)
        try:
            self.fisher_diag = importance(
                self.model,
                self.rows(dataset),
                self.fisher_n_samples,
                estimator=self.estimator,
                batch_size=self.args.per_device_train_batch_size,
                pad_id=self.pad_id,
                seed=self.args.seed,
            )
        finally:
            self.model.to(home)
        self.rules = [rule for rule in self.rules if rule is not self._anchor]
        self._anchor = over_time(
            EWC(importance=self.fisher_diag, strength=self.ewc_lambda, layers=self._layers), self._progressive
        )
        self.rules.append(self._anchor)
        logger.info("Fisher信息矩阵计算完成")
        return self.fisher_diag

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `holdfast.Trainer.train`; raises BadInput where there is no F yet."""
        if self.fisher_diag is None:
            raise BadInput("EWC does not know yet what is important: call compute_fisher(dataset) before train().")
        check_room(self.fisher_diag, self.ewc_lambda, self.args.learning_rate)
        return super().train(*args, **kwargs)


def importance(
    model: nn.Module,
    rows: Sequence[Row],
    samples: int,
    *,
    estimator: str = "sampled",
    batch_size: int = 8,
    pad_id: int = 0,
    seed: int = 0,
) -> Importance:
    """The diagonal Fisher information of what trains, not normalised, on at most `samples` rows, by plain path."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:samples].tolist()
    batches = batched([rows[i] for i in order], batch_size, pad_id, next(model.parameters()).device)
    paths = {weighed(p) for p in inventory(model) if p.trainable}
    return {plain(path): t for path, t in FISHER[estimator](model, batches, paths=paths).items()}


def summed(parts: Sequence[Mapping[str, Tensor]]) -> Importance:
    """The sum of several tasks' importance: one anchor for all of them. Huszár (2018), arXiv:1712.03847."""
    return {path: torch.stack([part[path] for part in parts]).sum(0) for path in parts[0]} if parts else {}


def check_room(importance: Mapping[str, Tensor], strength: float, learning_rate: float) -> None:
    """Warn where λ is so large that weights come to a stop after a few steps' worth of way.

    A pull of weight a = `learning_rate` · λ · F balances steps of one size after 1 / a of them.
    """
    mean = sum(float(t.sum()) for t in importance.values()) / max(1, sum(t.numel() for t in importance.values()))
    if (weight := learning_rate * strength * mean) * ROOM > 1:
        logger.warning(
            "λ = %g lets a weight of mean importance (%.2g) go no further than %.2g steps of rate %g from its start, "
            "so little will be learnt. With λ = %.2g it could go %d steps.",
            strength, mean, 1 / weight, learning_rate, strength / weight / FAR, FAR,
        )  # fmt: skip


def over_time(rule: Rule, progressive: int | None) -> Rule:
    """The rule, or the rule growing to its strength over so many steps."""
    return rule if progressive is None else Progressive(progressive, rule)
