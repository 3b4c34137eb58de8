"""The rules inside transformers' Trainer, or any trainer built on it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from holdfast import checkpoint
from holdfast._errors import BadCheckpoint, Unsupported
from holdfast.rule import REPLAYED, Rule, Window
from holdfast.run import Run

logger = logging.getLogger(__name__)


class RulesMixin:
    """Put before a Trainer class to give it `rules`: `class MyTrainer(RulesMixin, SFTTrainer): ...`.

    Checkpoints are written whole or not at all, only complete ones are resumed from, a loss that is not finite stops
    the run, and SIGTERM or Ctrl-C saves a checkpoint and stops.
    """

    args: TrainingArguments
    state: TrainerState
    model: nn.Module

    def __init__(
        self,
        *args: Any,
        rules: Sequence[Rule] = (),
        sinks: Sequence[Callable[[dict[str, Any]], None]] = (),
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.args.auto_find_batch_size:
            raise Unsupported("auto_find_batch_size restarts a run behind the rules' backs; set the batch size yourself.")
        self.rules, self.sinks = list(rules), list(sinks)
        self.run: Run | None = None
        self.interrupted = False
        self._resumed: Path | None = None
        self._staging: Path | None = None
        self.add_callback(_Bridge(self))  # type: ignore[attr-defined]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; `resume_from_checkpoint=True` takes the newest complete checkpoint."""
        self._resumed = self._complete(resume_from_checkpoint)
        self.interrupted = False
        try:
            with self._interruptible():
                resumed = None if self._resumed is None else str(self._resumed)
                return super().train(resumed, *args, **kwargs)  # type: ignore[misc]
        finally:
            if self.run is not None:
                self.run.end()

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one step, as the rules want them, and then their number of items."""
        window: Window = list(islice(epoch_iterator, num_batches))
        if self.run is not None and window:
            window = self.run.batch(window)
        return window, self._get_num_items_in_batch(window, device)  # type: ignore[attr-defined]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The trainer's loss, and in training the rules' penalties."""
        plain = {k: v for k, v in inputs.items() if k != REPLAYED}
        parent = super().compute_loss  # type: ignore[misc]
        if self.run is None or not model.training:
            return parent(model, plain, return_outputs, num_items_in_batch)
        if not self.run.penalised:
            result = parent(model, plain, return_outputs, num_items_in_batch)
            self.run.watch(result[0] if return_outputs else result)
            return result
        loss, outputs = parent(model, dict(plain), True, num_items_in_batch)
        loss = loss + self.run.penalty(inputs, outputs) * self._divided_later(num_items_in_batch)
        self.run.watch(loss)
        return (loss, outputs) if return_outputs else loss

    def _divided_later(self, num_items_in_batch: Any) -> int:
        """By how much the Trainer will divide the loss once more, which penalties must not suffer twice."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            counted = self.model_accepts_loss_kwargs and num_items_in_batch is not None  # type: ignore[attr-defined]
            scaled = counted or self.compute_loss_func is not None  # type: ignore[attr-defined]
        return 1 if scaled else int(self.current_gradient_accumulation_steps)  # type: ignore[attr-defined]

    def _begin(self, scheduler: Any) -> None:
        if self.is_deepspeed_enabled and any("update" in r.hooks() for r in self.rules):  # type: ignore[attr-defined]
            raise Unsupported("DeepSpeed's own optimiser steps where no rule can look; use FSDP2 or plain data parallel.")
        optimizer = self.optimizer  # type: ignore[attr-defined]
        inner = getattr(optimizer, "optimizer", optimizer)
        self.run = Run(
            self.model, inner, self.rules, seed=self.args.seed, scheduler=scheduler, sinks=self.sinks
        )
        if self._resumed is None:
            self.run.begin()
            return
        prepared = self._resumed.parent / "prepared"
        checkpoint.check(prepared)
        state = checkpoint.read_state(self._resumed, self._rank("rules"))
        if state["step"] != self.state.global_step:
            raise BadCheckpoint(f"{self._resumed}: the rules stood at step {state['step']}, the trainer at another.")
        self.run.begin(checkpoint.read_state(prepared, self._rank("rules")), state)

    def _rank(self, name: str) -> str:
        return name if self.args.world_size == 1 else f"{name}-{self.args.process_index}-of-{self.args.world_size}"

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def _complete(self, wanted: str | bool | None) -> Path | None:
        if not wanted:
            return None
        if wanted is True:
            found = checkpoint.newest(Path(self.args.output_dir))
            if found is None:
                raise BadCheckpoint(f"There is no complete checkpoint in {self.args.output_dir} to resume from.")
            return found
        checkpoint.check(Path(wanted))
        return Path(wanted)

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)  # type: ignore[misc]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Everything into a staging folder; then sealed, moved to its place, and only then older ones deleted."""
        place = Path(self._get_output_dir(trial))
        folder = place / f"checkpoint-{self.state.global_step}"
        self._save_prepared(place / "prepared")
        self._staging = place / ".saving"
        try:
            with self._published(self._staging / folder.name, folder) as staged:
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
                if self.run is not None:
                    checkpoint.write_state(staged, self._rank("rules"), self.run.state())
        finally:
            self._staging = None
        best = self.state.best_model_checkpoint
        if self.args.should_save:
            checkpoint.rotate(place, self.args.save_total_limit, Path(best) if best else None)

    def _save_prepared(self, folder: Path) -> None:
        if self.run is not None and not (folder / checkpoint.MANIFEST).is_file():
            with self._published(folder.with_name(".saving-prepared"), folder) as staged:
                checkpoint.write_state(staged, self._rank("rules"), self.run.prepared())

    @contextmanager
    def _published(self, staging: Path, folder: Path) -> Iterator[Path]:
        """Every process writes to `staging`; the first one moves it into place when all have written."""
        with checkpoint.kept_whole(staging, folder, first=self.args.should_save, meet=self._meet):
            yield staging
        best = self.state.best_model_checkpoint
        if best and Path(best).name == folder.name:
            self.state.best_model_checkpoint = str(folder)

    def _meet(self) -> None:
        self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]

    # Signals --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first SIGTERM or Ctrl-C asks for a checkpoint and a stop; the second Ctrl-C stops at once."""

        def ask(number: int, frame: Any) -> None:
            if self.interrupted and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.interrupted = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Bridge(TrainerCallback):
    """Tells the run when the Trainer begins, has made a step, logs, and ends."""

    def __init__(self, trainer: RulesMixin):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer._begin(kwargs.get("lr_scheduler"))

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        run = self.trainer.run
        assert run is not None
        run.after()
        if run.stopped:
            control.should_training_stop = True
        if self.trainer.interrupted:
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.trainer.run is not None and logs and "loss" in logs:
            self.trainer.run.log("train", **{k: _number(v) for k, v in logs.items()})

    def on_train_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.run is not None:
            self.trainer.run.end()


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


class Trainer(RulesMixin, transformers.Trainer):  # type: ignore[misc]
    """transformers' Trainer with `rules`; without rules it gives the same bits as the original."""
