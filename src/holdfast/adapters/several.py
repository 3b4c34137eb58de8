"""Several adapters on one base in memory, of which one speaks and learns; none of them changes the base."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from holdfast._errors import BadInput, UnknownName
from holdfast.adapters.combining import combined
from holdfast.adapters.sharing import check_config, check_name, check_shapes, planned_config
from holdfast.adapters.stored import CONFIG, WEIGHTS
from holdfast.checkpoint import MANIFEST, kept_whole

OURS = {CONFIG, WEIGHTS, "README.md", MANIFEST}
"""What a folder with an adapter holds; anything else in it is somebody else's, and is not written over."""


class AdapterSet:
    """Several adapters of one kind on one `base`, which is not copied and never changes.

    One adapter is active: it alone speaks, and it alone has `requires_grad`, after each method that returns. The first
    to be added is active at once. `model` is the PeftModel to call, train and evaluate. Weights are drawn from `seed`,
    each adapter's anew, and no other random state moves.
    """

    def __init__(self, base: PreTrainedModel, *, seed: int = 0):
        self.base, self._seed = base, seed
        self._model: PeftModel | None = None
        self._paths = [path for path, _ in base.named_modules() if path]
        self._trained = {name: p.requires_grad for name, p in base.named_parameters()}

    @property
    def model(self) -> PeftModel:
        """The base with its adapters; raises BadInput where there is none yet."""
        if self._model is None:
            raise BadInput("There is no adapter on this base. Put one on it with `add` or `load`.")
        return self._model

    @property
    def names(self) -> list[str]:
        """The adapters, in the order in which they came."""
        return [] if self._model is None else list(self._model.peft_config)

    @property
    def active(self) -> str | None:
        """The adapter that speaks and learns; None while there is none."""
        return None if self._model is None else str(self._model.active_adapter)

    def add(self, name: str, method: PeftConfig | str | Mapping[str, Any]) -> PeftModel:
        """Put a new adapter on the base, which starts as its method says; who is active stays. The model.

        `method` is a PEFT config, or a method as a recipe says it: `lora`, or `{"lora": {"rank": 4}}`. Raises BadInput
        for a name that is taken or is part of a module's path, UnmatchedSelect for a target that names no module,
        Unsupported for what would change the base or is of another kind than the adapters that are there.
        """
        self._check_name(name)
        config = (
            copy.deepcopy(method) if isinstance(method, PeftConfig) else planned_config(self.base, method, self._seed)
        )
        check_config(config, self._paths, None if self._model is None else self._model.peft_type)
        config.inference_mode = False
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            torch.manual_seed(self._seed)
            if self._model is None:
                self._model = get_peft_model(self.base, config, adapter_name=name)
            else:
                self._model.add_adapter(name, config)
        return self.activate(self.active or name)

    def activate(self, name: str) -> PeftModel:
        """Let this adapter alone speak and learn; the model. Raises UnknownName."""
        model = self._known(name)
        model.set_adapter(name)
        # PEFT gives the flags to the active adapter; that nothing else has any is for us to see to.
        for path, parameter in model.named_parameters():
            if not _is_of(path, name):
                parameter.requires_grad_(False)
        return model

    def remove(self, name: str) -> None:
        """Take an adapter off; without the last one the base is as it was. Raises UnknownName, BadInput if active."""
        model = self._known(name)
        if len(self.names) == 1:
            model.unload()
            self._model = None
            for path, parameter in self.base.named_parameters():
                parameter.requires_grad_(self._trained[path])
            return
        if name == self.active:
            others = " or ".join(repr(other) for other in self.names if other != name)
            raise BadInput(f"The adapter {name!r} is active. Activate {others} first, then remove it.")
        model.delete_adapter(name)
        self.activate(str(self.active))

    def combine(self, name: str, weights: Mapping[str, float], rank: int | None = None) -> PeftModel:
        """Add an adapter that is a weighted sum of LoRA adapters, see `holdfast.adapters.combining`; the model.

        Raises as `add` and `combined`, and UnknownName for an adapter that is not there.
        """
        self._check_name(name)
        for other in weights:
            self._known(other)
        active = str(self.active)
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            combined(self.model, name, weights, rank)
        return self.activate(active)

    def save(self, name: str, folder: str | Path) -> None:
        """Write one adapter to `folder` in PEFT's layout, all of it or nothing; an adapter that is there is replaced.

        Raises UnknownName, and BadInput for a folder with other things in it.
        """
        model, place = self._known(name), Path(folder)
        if place.exists() and (not place.is_dir() or {file.name for file in place.iterdir()} - OURS):
            raise BadInput(f"{place} holds other things than an adapter. Name a folder that is new.")
        staging = place.with_name(f".{place.name}")
        with kept_whole(staging, place):
            model.save_pretrained(str(staging), selected_adapters=[name], save_embedding_layers=False)
            # PEFT writes an adapter called `default` to the folder itself, and any other to one of its name below.
            below = staging / name
            for file in list(below.iterdir()) if name != "default" else ():
                file.rename(staging / file.name)
            if name != "default":
                below.rmdir()

    def load(self, name: str, folder: str | Path) -> PeftModel:
        """Read an adapter from `folder`, as a new one or into one that is there; who is active stays. The model.

        Raises BadInput where the folder holds no adapter in safetensors or one of other shapes, and as `add`.
        """
        place = Path(folder)
        if not (place / CONFIG).is_file() or not (place / WEIGHTS).is_file():
            raise BadInput(f"{place} holds no adapter ({CONFIG} and {WEIGHTS}). `save` writes one.")
        new = name not in self.names
        if new:
            self.add(name, PeftConfig.from_pretrained(str(place)))
        try:
            check_shapes(self.model, name, place)
        except BadInput:
            if new:
                self.remove(name)
            raise
        self.model.load_adapter(str(place), name, is_trainable=True)
        return self.activate(str(self.active))

    @contextmanager
    def base_only(self) -> Iterator[PreTrainedModel | PeftModel]:
        """No adapter speaks meanwhile; what had `requires_grad` has it again afterwards."""
        if self._model is None:
            yield self.base
            return
        flags = [(p, p.requires_grad) for p in self._model.parameters()]
        try:
            with self._model.disable_adapter():
                yield self._model
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def _known(self, name: str) -> PeftModel:
        if name not in self.names:
            raise UnknownName("adapter", name, self.names) if self.names else BadInput(f"There is no {name!r} yet.")
        return self.model

    def _check_name(self, name: str) -> None:
        if name in self.names:
            raise BadInput(f"There is an adapter {name!r} already. Take another name, or remove that one first.")
        check_name(self.base, name)


def _is_of(path: str, name: str) -> bool:
    return f".{name}." in path or path.endswith(f".{name}")
