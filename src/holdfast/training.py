"""The rules inside transformers' Trainer, or any trainer built on it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from holdfast._errors import Unsupported
from holdfast.objective import accepts_items, items, share
from holdfast.rule import REPLAYED, Batch, Rule, Window
from holdfast.run import Run
from holdfast.run_folder import RunFolder, Saved
from holdfast.saving import CheckpointsMixin

LOOKS = ("learn", "probe")
"""Lines of a run's journal that tell how a text fares."""


class RulesMixin(CheckpointsMixin):
    """Put before a Trainer class to give it `rules`: `class MyTrainer(RulesMixin, SFTTrainer): ...`.

    Checkpoints are written whole or not at all, only complete ones are resumed from, a loss that is not finite stops
    the run, and SIGTERM or Ctrl-C saves a checkpoint and stops. `sinks` get each line of the run's journal, in the
    first process only. Where a trainer's own loss builds no logits, rules with a penalty cost a forward pass more.
    """

    args: TrainingArguments
    state: TrainerState
    control: TrainerControl
    model: nn.Module

    def __init__(
        self,
        *args: Any,
        rules: Sequence[Rule] = (),
        sinks: Sequence[Callable[[dict[str, Any]], None]] = (),
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs: bool = accepts_items(self.model) and vars(self)["model_accepts_loss_kwargs"]
        self.rules, self.sinks = list(rules), list(sinks)
        self.run: Run | None = None
        self.interrupted = False
        self._resumed: Saved | None = None
        self._folder = RunFolder()
        self._staging: Path | None = None
        self.add_callback(_Bridge(self))  # type: ignore[attr-defined]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; `resume_from_checkpoint=True` takes the newest complete checkpoint.

        Raises BadCheckpoint for one that is not complete or not of this model, Unsupported where rules could not keep
        their word, and TrainingStopped for a loss that is not finite or a full disk.
        """
        self._refuse()
        self._start_afresh(resume_from_checkpoint)
        try:
            with self._interruptible():
                resumed = None if self._resumed is None else str(self._resumed.folder)
                return super().train(resumed, *args, **kwargs)  # type: ignore[misc]
        finally:
            self._resumed = None
            if self.run is not None:
                self.run.interrupted |= self.interrupted
                self.run.end()

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one step, as the rules want them, and then their number of items.

        None for a run that had ended when it was saved: resumed, the Trainer would make one step more.
        """
        if self.state.global_step >= self.state.max_steps or (self.run is not None and self.run.stopped):
            self.control.should_training_stop = True
            return [], None
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
        with _overheard(model) as heard:
            result = parent(model, dict(plain), return_outputs, num_items_in_batch)
        loss = self._shared(result[0] if return_outputs else result, plain)
        divisor = self._divided_later(num_items_in_batch)
        if self.run.penalised:
            loss = loss + self.run.penalty(inputs, _with_logits(model, plain, heard)) * divisor
        self.run.watch(loss / divisor)
        if not loss.requires_grad:  # all that could move is held in this step, and the Trainer goes backward anyway
            loss.requires_grad_()
        return (loss, result[1]) if return_outputs else loss

    def _shared(self, loss: Tensor, inputs: Batch) -> Tensor:
        """The loss as it counts among the micro-batches of a step; a mean counts for as much as it is the mean of."""
        counted = self.model_accepts_loss_kwargs or self.compute_loss_func is not None  # type: ignore[attr-defined]
        window = self.run.window if self.run is not None else []
        if counted or len(window) < 2 or "labels" not in inputs:
            return loss
        return loss * len(window) * share(self.model, inputs, sum(items(self.model, batch) for batch in window))

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch forward and backward; what is held has no part in the norm that gradients are clipped to."""
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.run is not None:
            self.run.release()
        return loss

    def _divided_later(self, num_items_in_batch: Any) -> int:
        """By how much the Trainer will divide the loss once more, which penalties must not suffer twice."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            counted = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = counted or self.compute_loss_func is not None  # type: ignore[attr-defined]
        return 1 if scaled else int(self.current_gradient_accumulation_steps)  # type: ignore[attr-defined]

    def _refuse(self) -> None:
        """Raise Unsupported for a host in which rules could not keep their word."""
        if self.args.auto_find_batch_size:
            raise Unsupported(
                "auto_find_batch_size restarts a run behind the rules' backs; set the batch size yourself."
            )
        if self.args.load_best_model_at_end and any(rule.closing for rule in self.rules):
            late = ", ".join(type(rule).__name__ for rule in self.rules if rule.closing)
            raise Unsupported(
                f"load_best_model_at_end loads other weights before {late} can end; use the rule `rollback` for that."
            )
        devices = set((getattr(self.model, "hf_device_map", None) or {}).values())
        if self.args.n_gpu > 1 or len(devices) > 1:
            raise Unsupported(
                "One process over several GPUs is not supported; start one for each (`accelerate launch`, `torchrun`), "
                "or let CUDA_VISIBLE_DEVICES name one."
            )
        if self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            raise Unsupported(
                "DeepSpeed's own optimiser steps where no rule can look; use FSDP2 or plain data parallel."
            )
        if self.is_fsdp_enabled and getattr(self.accelerator.state.fsdp_plugin, "fsdp_version", 1) != 2:  # type: ignore[attr-defined]
            raise Unsupported("FSDP1 flattens weights, so that no rule can tell them apart; set `fsdp_version: 2`.")

    def _begin(self, scheduler: Any) -> None:
        optimizer = self.optimizer  # type: ignore[attr-defined]
        self.run = Run(
            self.model,
            getattr(optimizer, "optimizer", optimizer),
            self.rules,
            seed=self.args.seed,
            scheduler=scheduler,
            sinks=[*self.sinks, self._tell_loggers] if self.args.process_index == 0 else (),
            total=self.state.max_steps,
        )
        if self._resumed is None:
            self.run.begin()
        else:
            self._folder.resume(self._resumed)
            self.run.begin(self._resumed.prepared, self._resumed.state)

    def _tell_loggers(self, line: Mapping[str, Any]) -> None:
        """Looks at texts, for the loggers that `report_to` names: `probe/stories/rise` with its interval."""
        if line["kind"] in LOOKS and self.args.report_to:
            about = f"{line['kind']}/{line['text']}"
            self.log({f"{about}/{k}": v for k, v in line.items() if isinstance(v, float)})  # type: ignore[attr-defined]

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
        if bool(run.agreed(torch.tensor(float(self.trainer.interrupted))) > 0):
            run.interrupted = True
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        run = self.trainer.run
        if run is not None and logs and "loss" in logs:
            penalties = {f"penalty/{name}": value for name, value in run.penalties.items()}
            run.log("train", **{k: _number(v) for k, v in {**logs, **penalties}.items()})

    def on_train_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.run is not None:
            self.trainer.run.end()


@contextmanager
def _overheard(model: nn.Module) -> Iterator[list[Any]]:
    """What the model answers meanwhile, whichever way the trainer's loss asks it."""
    heard: list[Any] = []
    hook = model.register_forward_hook(lambda module, args, output: heard.append(output))
    try:
        yield heard
    finally:
        hook.remove()


def _with_logits(model: nn.Module, batch: Batch, heard: Sequence[Any]) -> Any:
    """The first answer that has logits to differentiate; where the loss never built them, the model is asked again."""
    for outputs in heard:
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
        if logits is not None and logits.requires_grad:
            return outputs
    return model(**{k: v for k, v in batch.items() if k != "labels"})


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


class Trainer(RulesMixin, transformers.Trainer):  # type: ignore[misc]
    """transformers' Trainer with `rules`; without rules it gives the same bits as the original.

    But for models whose loss is a mean of their batch whatever they are told (see `accepts_items`): under gradient
    accumulation the original adds these means up, and this one weighs them.
    """
