"""The model before the first step, as a set of values rather than a second model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from holdfast.params.weights import Values
from holdfast.rule import REPLAYED, Batch

if TYPE_CHECKING:
    from holdfast.run import Run


def unprompted(model: Any) -> AbstractContextManager[Any]:
    """The model without its learnt prompts for a while, where it has any: they speak from the start, untrained."""
    prompts = any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())
    return model.disable_adapter() if prompts else nullcontext()


class Base:
    """The model before the first step: the start values of what trains, swapped in for a forward pass.

    One copy of the trainable values serves teacher, anchors and governor, for full fine-tuning and for adapters of
    any initialisation; what does not train is shared with the model. Prompts change the model from the start: there
    the base answers without them.
    """

    def __init__(self, run: Run, values: Values):
        self._run, self.values = run, values

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Any:
        """The base model's outputs for a batch (labels and row marks are ignored), in evaluation mode."""
        inputs = {k: v for k, v in batch.items() if k not in (REPLAYED, "labels")}
        with self._run.aside(), self._run.at(self.values), unprompted(self._run.model):
            return self._run.model(**inputs)
