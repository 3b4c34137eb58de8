"""A learning-rate finder that sees forgetting too: the rate grows at every step, and both losses are watched."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from holdfast._errors import BadInput, TrainingStopped
from holdfast.data.rows import Row, collate
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.plain import finite
from holdfast.recipe.callbacks import Progress
from holdfast.recipe.model import for_task, opened, trainable
from holdfast.recipe.schema import Recipe
from holdfast.recipe.texts import Texts
from holdfast.recipe.training import steps, training_arguments
from holdfast.run import Run

LOWEST, HIGHEST = 1e-6, 1.0
SMOOTHING = 0.9
"""Weight of the past in the running mean of the loss."""
DIVERGED = 2.0
"""The test ends where the smoothed loss is so many nats per token above the base's."""
LOOKS, LOOKED = 12, 32
"""How many looks at the kept texts there are, and at how many rows of each."""
NOTICED = 0.01
"""A rise of so many nats per token on a kept text counts as the beginning of forgetting."""


@dataclass(frozen=True)
class Rates:
    """What a range test found.

    `learnt` holds pairs (rate, change of the loss on the new text), smoothed and beside the base's loss on the same
    rows, so that easy and hard batches do not count; `kept` for each kept text pairs (rate, change of its loss), all in
    nats per token. `steepest` is the rate at which the new loss falls fastest, `lowest` where it is least, and
    `forgets` the first rate at which some kept text has risen by `NOTICED`, None where none has; `inside` the highest
    rate at which no text had yet risen beyond its budget, None without budgets.
    """

    learnt: list[tuple[float, float]]
    kept: dict[str, list[tuple[float, float]]]
    steepest: float
    lowest: float
    forgets: float | None
    inside: float | None = None

    @property
    def suggested(self) -> float:
        """The rate to begin with: where the loss falls fastest."""
        return self.steepest

    def told(self) -> dict[str, Any]:
        """The same as plain values."""
        told: dict[str, Any] = finite(
            {
                "suggested": self.suggested,
                "steepest": self.steepest,
                "lowest": self.lowest,
                "forgets": self.forgets,
                "inside": self.inside,
                "learnt": self.learnt,
                "kept": self.kept,
            }
        )
        return told


def find_rates(recipe: Recipe, *, count: int = 100, progress: Progress | None = None) -> Rates:
    """Train a recipe's method for `count` steps while the learning rate grows from 1e-6 to 1, and watch the losses.

    The rate of step i is LOWEST (HIGHEST / LOWEST)^(i / count), without warm-up, rules or weight decay; the loss is
    smoothed by a running mean without bias, and the base's loss on the same rows is taken from it. Nothing is kept of
    the model. Smith (2017), arXiv:1506.01186. Raises BadInput for fewer than ten steps, and where the loss never falls.
    """
    if count < 10:
        raise BadInput(f"A range test takes at least 10 steps, not {count}.")
    say = progress or (lambda line: None)
    say({"kind": "stage", "text": f"loading {recipe.base}"})
    base = opened(recipe, trainable=True)
    texts = Texts(recipe, base)
    rows = texts.learn[0]
    args = training_arguments(recipe, len(rows), Path(recipe.output))
    kept = {name: text.control.rows[:LOOKED] for name, text in texts.guarded.items()}
    before = {name: sequence_losses(base.model, of, pad_id=base.pad_id).mean() for name, of in kept.items()}
    drawn = _drawn(rows, args.train_batch_size * args.gradient_accumulation_steps, count + 1, recipe.seed)
    headed = for_task(recipe, base, texts)
    known = [sequence_losses(headed, some, pad_id=base.pad_id).mean() for some in drawn]
    set_seed(recipe.seed)
    model = trainable(recipe, base, texts, headed, steps(args, len(rows)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.0)
    run = Run(model, optimizer, [], seed=recipe.seed)
    smooth, learnt, rises = _Smooth(), list[tuple[float, float]](), {name: list[tuple[float, float]]() for name in kept}
    run.begin()
    model.train()
    for i, some in enumerate(drawn):
        rate = LOWEST * (HIGHEST / LOWEST) ** (i / count)
        for group in optimizer.param_groups:
            group["lr"] = rate
        try:
            batch = {key: value.to(model.device) for key, value in collate(some, base.pad_id).items()}
            loss = smooth(run.advance(batch, clip=args.max_grad_norm or None) - known[i])
        except TrainingStopped:
            break
        learnt.append((rate, loss))
        if i % max(1, count // LOOKS) == 0:
            for name, of in kept.items():
                rises[name].append((rate, sequence_losses(model, of, pad_id=base.pad_id).mean() - before[name]))
        say({"kind": "step", "step": i, "of": count})
        if loss > DIVERGED:
            break
    run.end()
    found = _found(learnt, rises)
    budgets = {name: recipe.keep.budget_of(name) for name in kept}
    return replace(found, inside=_inside(rises, {n: math.log1p(b) for n, b in budgets.items() if b is not None}))


class _Smooth:
    """A running mean without the bias of its start."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def __call__(self, value: float) -> float:
        self._count += 1
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * value
        return self._sum / (1 - SMOOTHING**self._count)


def _drawn(rows: Sequence[Row], size: int, count: int, seed: int) -> list[list[Row]]:
    """So many batches, all rows in turn."""
    order: list[int] = []
    draw = random.Random(seed)
    while len(order) < size * count:
        order += draw.sample(range(len(rows)), len(rows))
    return [[rows[k] for k in order[i * size : (i + 1) * size]] for i in range(count)]


def _found(learnt: list[tuple[float, float]], rises: dict[str, list[tuple[float, float]]]) -> Rates:
    """The steepest fall over the logarithm of the rate, up to where the loss is least."""
    rates, losses = (np.array(column) for column in zip(*learnt, strict=True)) if learnt else (np.empty(0),) * 2
    least = int(losses.argmin()) if len(losses) else 0
    if least < 2 or losses[least] >= 0:
        raise BadInput("The loss never fell, at any rate: look at the data, or at what the method trains.")
    slopes = np.gradient(losses[: least + 1], np.log(rates[: least + 1]))
    noticed = [rate for pairs in rises.values() for rate, rise in pairs if rise > NOTICED or math.isnan(rise)]
    return Rates(
        learnt, rises, steepest=float(rates[slopes.argmin()]), lowest=float(rates[least]),
        forgets=min(noticed, default=None),
    )  # fmt: skip


def _inside(rises: Mapping[str, Sequence[tuple[float, float]]], limits: Mapping[str, float]) -> float | None:
    """The last rate before any text left its budget, in nats."""
    looks = [(rate, rise <= limits[name]) for name, pairs in rises.items() if name in limits for rate, rise in pairs]
    broken = min((rate for rate, fits in looks if not fits), default=math.inf)
    return max((rate for rate, _ in looks if rate < broken), default=None)


def rates_told(found: Mapping[str, Any]) -> list[str]:
    """What was found, in sentences."""
    said = [
        f"The loss falls fastest at {found['suggested']:.1e} and is least at {found['lowest']:.1e}.",
        f"To begin with: train.learning_rate={found['suggested']:.1e}",
    ]
    if found["forgets"] is not None:
        said.append(
            f"A kept text has risen by {NOTICED:g} nats by {found['forgets']:.1e}: from there on rules (replay, "
            "distill, ewc) have to hold it back."
        )
    if found.get("inside") is not None and found["inside"] < found["suggested"]:
        said.append(f"Without rules, the budgets are kept up to {found['inside']:.1e} in so few steps.")
    return said
