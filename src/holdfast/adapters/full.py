"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from transformers import PreTrainedModel

from holdfast.adapters.method import Traits, methods


@methods.register("full", Traits(rate=1.0))
def full(model: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """The model as it is, all of it trainable; nothing is drawn, so `seed` changes nothing."""
    model.requires_grad_(True)
    return model
