"""A training method: what of a model trains, by the name that recipes use."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from holdfast._registry import Registry

GIVEN = ("model", "seed", "steps", "rows", "tokenizer")
"""What a run fills in where a method asks for it: the steps to come, the rows to learn from, the base's tokenizer."""


@dataclass(frozen=True)
class Traits:
    """What a run has to know of a method beside its knobs.

    `rate` is the learning rate where a recipe names none, as a multiple of full fine-tuning's. `loading` turns the
    method's knobs into transformers' settings for loading the base, `companion` into a rule that it needs while it
    trains. `checkpointing` is false where gradient checkpointing would break it, `merges` where no weight of the base
    can take in what was learnt, `continues` where a saved adapter cannot learn on. `kind` is PEFT's name of the
    adapter, None where there is none.
    """

    rate: float = 10.0
    loading: Callable[..., Any] | None = None
    companion: Callable[..., Any] | None = None
    checkpointing: bool = True
    merges: bool = True
    continues: bool = True
    kind: str | None = None


class Methods(Registry[Callable[..., Any]]):
    """Functions (model, *, seed, **knobs) -> model: they choose what trains, and wrap the model where they add weights.

    Also called with a model on the meta device, to know what would train: then nothing is computed from weights.
    """

    def __init__(self) -> None:
        super().__init__("method")
        self._traits: dict[str, Traits] = {}

    def register(self, name: str, traits: Traits = Traits()) -> Callable[..., Any]:
        """Enter a function under a name."""
        self._traits[name] = traits
        return super().register(name)

    def hints(self, name: str) -> dict[str, Any]:
        """The annotations of a method's knobs; those of one over a config of PEFT stand in its signature."""
        hints = dict(get_type_hints(self[name]))
        told = {key: p.annotation for key, p in self.knobs(name).items() if not isinstance(p.annotation, str)}
        return {**{key: kind for key, kind in told.items() if kind is not inspect.Parameter.empty}, **hints}

    def traits(self, name: str) -> Traits:
        """What a run has to know of a method; raises UnknownName."""
        self[name]
        return self._traits[name]

    def apply(self, name: str, model: Any, arguments: dict[str, Any], **given: Any) -> Any:
        """The model with what the method trains; of `given` (see GIVEN) the method gets what it asks for."""
        asked = {key: value for key, value in given.items() if key in self.knobs(name)}
        return self.build(name, {"model": model, **asked, **arguments})


methods = Methods()
