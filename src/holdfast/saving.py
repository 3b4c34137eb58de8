"""The checkpoints of a Trainer with rules: whole or not at all, and only complete ones are resumed from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from holdfast import checkpoint
from holdfast.adapters.wrapping import encoded
from holdfast.run import Run
from holdfast.run_folder import RunFolder, Saved
from holdfast.vocabulary.rows import alone, counted_as_before, embedding_of, folded
from holdfast.vocabulary.stored import stand_beside, write_rows

TRAINED = "trained.safetensors"
"""In a checkpoint whose model or adapter, as transformers and PEFT save it, is not all that trained."""


class CheckpointsMixin:
    """What a Trainer class does differently where it saves and resumes; `run` is its run with rules."""

    args: TrainingArguments
    state: TrainerState
    model: nn.Module
    run: Run | None
    interrupted: bool
    _resumed: Saved | None
    _folder: RunFolder
    _staging: Path | None

    @property
    def _is_sharded(self) -> bool:
        """Whether this process holds parts of tensors; accelerate splits them later, transformers while loading."""
        return self.is_fsdp_enabled or any(isinstance(p, DTensor) for p in self.model.parameters())  # type: ignore[attr-defined]

    def _start_afresh(self, wanted: str | bool | None) -> None:
        self.run, self.interrupted = None, False
        part = (self.args.process_index, self.args.world_size) if self._is_sharded else None
        meet = self.accelerator.wait_for_everyone  # type: ignore[attr-defined]
        self._folder = RunFolder(part=part, first=self.args.should_save, meet=meet)
        self._resumed = self._folder.choose(Path(self.args.output_dir or "."), wanted, _trained(self.model))

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)  # type: ignore[misc]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Everything into a staging folder; then sealed, moved to its place, and only then older ones deleted."""
        place = Path(self._get_output_dir(trial))
        folder = place / f"checkpoint-{self.state.global_step}"
        assert self.run is not None
        self._folder.prepare(place, {n: list(p.shape) for n, p in self.run.tensors.items()}, self.run.prepared)
        self._staging = place / ".saving"
        try:
            with self._folder.published(self._staging / folder.name, folder) as staged:
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
                if stand_beside(self.model) and (tokenizer := self.processing_class) is not None:  # type: ignore[attr-defined]
                    write_rows(self.model, tokenizer, staged, first=self.args.should_save)
                if self.args.should_save and self._keeps_trained:
                    save_file({n: p.detach().contiguous() for n, p in self.run.tensors.items()}, staged / TRAINED)
                self._repoint(staged, folder)
                self._folder.write(staged, {"stateless": self.run.stateless, **self.run.state()})
        finally:
            if self.args.should_save:
                shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None
        best = self.state.best_model_checkpoint
        if self.args.should_save:
            checkpoint.rotate(place, self.args.save_total_limit, Path(best) if best else None)

    @property
    def _keeps_trained(self) -> bool:
        """Whether a checkpoint holds a copy of all that trains; shards are kept by accelerate."""
        return encoded(self.model) or (embedding_of(self.model) is not None and not self._is_sharded)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """A model with new rows is written as a plain one; where they alone train, they are written elsewhere."""
        model: Any = self.model
        if isinstance(model, PeftModel) or embedding_of(model) is None:
            with counted_as_before(model):
                super()._save(output_dir, state_dict)  # type: ignore[misc]
        elif not alone(model):
            super()._save(output_dir, folded(model, state_dict))  # type: ignore[misc]
        elif self.args.should_save and (tokenizer := self.processing_class) is not None:  # type: ignore[attr-defined]
            tokenizer.save_pretrained(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """What PEFT saves of a prompt that a network makes is the prompt alone; training goes on with the network."""
        if not self._load_trained(Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_best_model(self) -> None:
        if not self._load_trained(Path(self.state.best_model_checkpoint or "")):
            super()._load_best_model()  # type: ignore[misc]

    @torch.no_grad()
    def _load_trained(self, folder: Path) -> bool:
        """Put a checkpoint's own copy of all that trains in its place; whether it holds one."""
        if not (folder / TRAINED).is_file():
            return False
        tensors = dict(self.model.named_parameters())
        for name, value in load_file(folder / TRAINED).items():
            tensors[name].copy_(value)
        return True

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """What was held all along has no optimiser state, and FSDP2 looks for one wherever a gradient could come."""
        held = self._resumed.state["stateless"] if self._resumed is not None and self._is_sharded else []
        tensors = dict(self.model.named_parameters())
        for name in held:
            tensors[name].requires_grad_(False)
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        for name in held:
            tensors[name].requires_grad_(True)

    def _repoint(self, staged: Path, folder: Path) -> None:
        """The best checkpoint is remembered by path; one that is just being written will stand elsewhere."""
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(folder)
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))


def _trained(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(p.shape) for name, p in model.named_parameters() if p.requires_grad}
