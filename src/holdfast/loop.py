"""The rules in anybody's own training loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from holdfast.rule import Rule
from holdfast.run import Run


@contextmanager
def attach(
    rules: Sequence[Rule],
    model: nn.Module,
    optimizer: Optimizer,
    *,
    seed: int = 0,
    scheduler: Any = None,
    total: int | None = None,
) -> Iterator[Run]:
    """The rules in anybody's own training loop.

    Call `run.batch([...])` on the micro-batches of a step, add `run.penalty(batch, outputs)` to each loss (it notes
    `outputs.loss`, so that rules know it and no step is made on nan; give any other loss to `run.watch`), and call
    `run.after()` after the optimiser's and the scheduler's step. Everything is taken off at the end. `total` is the
    number of steps that there will be, for rules whose schedule goes by it.
    """
    run = Run(model, optimizer, rules, seed=seed, scheduler=scheduler, total=total)
    run.listens = True
    try:
        run.begin()
        yield run
    finally:
        run.end()
