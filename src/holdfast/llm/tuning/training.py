"""The guide's training: texts as tensors, and an epoch of steps in which rules may have their say."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput, TrainingStopped
from holdfast.data.rows import padding
from holdfast.llm.tuning.batches import counted, learnt, read
from holdfast.loop import attach
from holdfast.rule import REPLAYED, Rule
from holdfast.run import Run

logger = logging.getLogger(__name__)


class DataProcessor:
    """Makes tensors of texts, cut to `max_length` tokens and padded to the longest."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 512):
        self.tokenizer, self.max_length = tokenizer, max_length

    def prepare_dataset(self, texts: Sequence[str], labels: Sequence[Any] | None = None) -> TensorDataset:
        """Tokens and mask, int64 [texts, longest], and the labels where there are some.

        A tokenizer without a pad token pads with its end token, masked, and stays as it is. Raises BadInput for no
        texts, for one without a token, for anything but strings, and for another number of labels.
        """
        texts = list(texts)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise BadInput("A data set is made of texts: hand over a list of strings with at least one in it.")
        if labels is not None and len(labels) != len(texts):
            raise BadInput(f"There are {len(labels)} labels for {len(texts)} texts: give one for each.")
        rows = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        if bare := [i for i, row in enumerate(rows) if not row]:
            raise BadInput(f"Text {bare[0]} is empty: there is no token in it to learn from.")
        if full := sum(len(row) >= self.max_length for row in rows):
            logger.info("%d of %d texts have %d tokens or more, and end there.", full, len(rows), self.max_length)
        left, longest = self.tokenizer.padding_side == "left", max(map(len, rows))
        filled = [(row, [0] * (longest - len(row))) for row in rows]
        pad = padding(self.tokenizer)
        ids = [_side([pad] * len(gap), row, left) for row, gap in filled]
        mask = [_side(gap, [1] * len(row), left) for row, gap in filled]
        parts = [torch.tensor(ids), torch.tensor(mask)]
        return TensorDataset(*parts, *([] if labels is None else [torch.tensor(labels)]))


class TrainingPipeline:
    """Epochs of training: a step of the optimiser, and then one of the scheduler, for each batch.

    Batches are mappings, what `DataProcessor` makes (without labels a language model learns the text itself), or what
    a `model` of one's own reads that answers with its loss. `scheduler` may be None. With `rules` they have their say,
    from the first epoch until `end`, or until the `with` block ends; `total` is the number of steps that there will
    be, for rules that ask, and `seed` theirs. Override `train_step` for steps of another kind.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Any,
        *,
        rules: Sequence[Rule] = (),
        seed: int = 0,
        total: int | None = None,
    ):
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.rules = list(rules)
        self.run: Run | None = None
        self._settings = {"seed": seed, "scheduler": scheduler, "total": total}
        self._open = ExitStack()

    def train_epoch(self, dataloader: Iterable[Any]) -> float:
        """One pass over the data; the mean of its steps' losses.

        Raises TrainingStopped for a loss that is not finite, before anything is learnt from it, and BadInput for a
        loader without batches. A rule may end the epoch early.
        """
        self._begin()
        self.model.train()
        losses: list[float] = []
        try:
            for batch in tqdm(dataloader, disable=None):
                losses.append(self._checked(self.train_step(batch)))
                if self.scheduler is not None:
                    self.scheduler.step()
                if self.run is not None:
                    self.run.after()
                    if self.run.stopped:
                        logger.info("The epoch ends after %d steps: %s", len(losses), self.run.stopped)
                        break
        except Exception:
            self.end()
            raise
        if not losses:
            raise BadInput("The loader holds no batch, so there is nothing to learn.")
        return sum(losses) / len(losses)

    def train_step(self, batch: Any) -> float:
        """Learn from one batch, rules included, and step; its loss without penalties."""
        self.optimizer.zero_grad()
        window = [read(self.model, batch)]
        if self.run is not None:
            window = self.run.batch(window)
        count, total = self._items(window), 0.0
        for part in window:
            done = learnt(self.model, part)
            share = 1.0 if count is None else done.items / max(count, 1)
            loss = done.loss * share
            if self.run is not None:
                loss = loss + self.run.penalty(part, done.outputs)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(done.loss.detach()) * share
        if self.run is not None:
            self.run.release()
        self.optimizer.step()
        return total

    def end(self) -> None:
        """Let the rules end; safe to call twice. A further epoch begins them anew."""
        self._open.close()
        self.run = None

    def __enter__(self) -> TrainingPipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _begin(self) -> None:
        if self.rules and self.run is None:
            settings: dict[str, Any] = self._settings
            self.run = self._open.enter_context(attach(self.rules, self.model, self.optimizer, **settings))

    def _items(self, window: Sequence[Any]) -> float | None:
        """How much a window holds that rules made of a batch; None where there is only the batch."""
        if len(window) == 1:
            return None
        return sum(counted(self.model, {k: v for k, v in part.items() if k != REPLAYED}) for part in window)

    def _checked(self, loss: Any) -> float:
        if not math.isfinite(float(loss)):
            raise TrainingStopped(
                f"The loss of a step is {float(loss)}. Take a lower learning rate, or look at the batch."
            )
        return float(loss)


def _side(gap: list[int], row: Sequence[int], left: bool) -> list[int]:
    return [*gap, *row] if left else [*row, *gap]
