"""New rows of a vocabulary are all that trains."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from holdfast._errors import BadInput
from holdfast.adapters.method import Traits, methods
from holdfast.vocabulary.rows import new_rows


@methods.register("rows", Traits(rate=100.0))
def rows(model: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """Every weight of the base stays as it is, to the last bit; nothing is drawn, and `seed` changes nothing.

    Raises BadInput for a model without new rows.
    """
    if not new_rows(model):
        raise BadInput("The method `rows` trains new rows of a vocabulary alone, and there are none. Name new tokens.")
    model.requires_grad_(False)
    let_train(model)
    return model


def let_train(model: Any) -> Any:
    """The model with its new rows trainable, whatever else a method chose; a model without any is left as it is."""
    for parameter in new_rows(model).values():
        parameter.requires_grad_(True)
    return model
