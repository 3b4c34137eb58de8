"""What the guide's models share: a method of the adapters' room on a model, called as the model itself is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.method import methods
from holdfast.adapters.quantised import SETTINGS, write_settings
from holdfast.adapters.several import OURS
from holdfast.adapters.sharing import check_shapes
from holdfast.adapters.stored import CONFIG, WEIGHTS
from holdfast.checkpoint import kept_whole
from holdfast.recipe.training import FULL_RATE

ALL = "~head"
"""The guide's choice of layers: every linear layer below the head."""


class Usual(int):
    """A default that the guide prints: left alone it stands for what the model has, a number given instead is checked.

    >>> Usual(768) == 768
    True
    """


class Tuned(nn.Module):
    """A model with what the method `name` adds to it; `adapted` is the PeftModel, for anybody's Trainer.

    The model is not copied: it carries the adapter from then on, and of all its weights only the adapter's train.
    Weights are drawn from `seed`, and no other random state moves. Raises BadInput for a model that carries an adapter
    already, and as the method.
    """

    name: str

    def __init__(self, model: Any, arguments: Mapping[str, Any], seed: int):
        super().__init__()
        if isinstance(model, PeftModel | Tuned) or any(isinstance(m, BaseTunerLayer) for m in model.modules()):
            raise BadInput(f"This model carries an adapter already. {type(self).__name__} takes a model without.")
        self.adapted: PeftModel = methods.apply(self.name, model, dict(arguments), seed=seed)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model answers to the arguments of its own `forward`, `labels` for a loss among them."""
        return self.adapted(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Tensor:
        """Tokens, int64 [rows, length], as transformers' `generate` gives them for its arguments.

        Raises Unsupported for a model that does not write.
        """
        if not callable(getattr(self.base_model, "prepare_inputs_for_generation", None)):
            raise Unsupported(f"A {type(self.base_model).__name__} does not write. Give a causal language model.")
        made: Tensor = self.adapted.generate(*args, **kwargs)  # type: ignore[no-untyped-call]
        return made

    @property
    def base_model(self) -> Any:
        """The transformers model that carries the adapter."""
        return self.adapted.get_base_model()

    model = base_model
    """The guide's other name of it."""

    def get_base_model(self) -> Any:
        """The transformers model, as PEFT's own models give it."""
        return self.base_model

    @property
    def config(self) -> Any:
        """The transformers model's settings."""
        return self.base_model.config

    @property
    def learning_rate(self) -> float:
        """Where the method is used to start from."""
        return FULL_RATE * methods.traits(self.name).rate

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter to `folder` in PEFT's layout, all of it or nothing; one that is there is replaced.

        `PeftModel.from_pretrained(base, folder)` and `holdfast.adapters.stored.load_adapted(folder)` read it. Raises
        BadInput for a folder with other things in it.
        """
        place = Path(folder)
        if place.exists() and (not place.is_dir() or {file.name for file in place.iterdir()} - self._ours()):
            raise BadInput(f"{place} holds other things than an adapter. Name a folder that is new.")
        with kept_whole(place.with_name(f".{place.name}"), place):
            self._write(place.with_name(f".{place.name}"))

    def load(self, folder: str | Path) -> None:
        """Read an adapter of this kind from `folder` in the place of this one's values.

        Raises BadInput where the folder holds no adapter in safetensors, or one of other shapes.
        """
        place = Path(folder)
        if not (place / CONFIG).is_file() or not (place / WEIGHTS).is_file():
            raise BadInput(f"{place} holds no adapter ({CONFIG} and {WEIGHTS}). `save_pretrained` writes one.")
        check_shapes(self.adapted, "default", place)
        self.adapted.load_adapter(str(place), "default", is_trainable=True)

    def _ours(self) -> set[str]:
        """What a folder with such an adapter holds; anything else in it is somebody else's."""
        return {*OURS, SETTINGS}

    def _write(self, staging: Path) -> None:
        """The adapter's files into a folder."""
        self.adapted.save_pretrained(str(staging), save_embedding_layers=False)
        write_settings(self.adapted, staging)
