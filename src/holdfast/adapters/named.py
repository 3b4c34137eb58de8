"""Every other method of the installed PEFT, by PEFT's own name in small letters and with PEFT's own arguments."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftModel
from transformers import PreTrainedModel

from holdfast._errors import BadInput
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.targets import target_modules
from holdfast.adapters.wrapping import transposed, wrapped

OURS = {
    "ADALORA", "BOTTLENECK", "IA3", "LN_TUNING", "LORA", "OSF", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "SHIRA",
}  # fmt: skip
"""PEFT's names of what has a file of its own here."""

FILLED = {
    "target_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "peft_type", "task_type",
    "inference_mode",
}  # fmt: skip
"""Fields of PEFT's configs that are filled in, from `targets`, `layers` and the model."""


OWN_PLACES = {"ADAPTION_PROMPT", "TRAINABLE_TOKENS"}
"""Methods whose targets are no linear layers; PEFT knows them by the kind of model."""


ASKS = {
    "cartridge": "a text whose cache it begins with", "cpt": "what each token of a prompt is",
    "multitask_prompt_tuning": "the number of its task with each row", "poly": "the number of its task with each row",
    "shadow": "a second model", "xlora": "adapters that are there already",
}  # fmt: skip
"""What methods need that a recipe's rows do not have; in Python they take it."""

APART = {"ADAPTION_PROMPT", "BEFT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA"}
"""Methods that no weight of the base can take in."""

STARTS = {"FOURIERFT": {"init_weights": True}, "C3A": {"init_weights": True}}
"""Where PEFT's default start would change what the model says before anything is learnt, the start that does not."""

SEEDS = (
    "projection_prng_key", "random_seed", "random_loc_seed", "proj_seed", "projection_seed", "generator_seed",
)  # fmt: skip
"""Fields that seed what is drawn; the run's own seed unless a recipe gives another."""


def by_name(name: str, config: type[PeftConfig]) -> Callable[..., PeftModel]:
    """A method function over PEFT's config of that name; its arguments are the config's fields, `targets` and `layers`.

    `targets` and `layers` are those of `lora`; a field `target_modules`, where given, goes to PEFT as it stands.
    """
    fields = {field.name for field in dataclasses.fields(config)}
    placing = {"targets": None if name in OWN_PLACES else "mlp"} if "target_modules" in fields else {}

    def build(model: PreTrainedModel, *, seed: int = 0, **arguments: Any) -> PeftModel:
        seeds = {key: seed for key in SEEDS if key in fields and arguments.get(key) is None}
        settings = _settings(model, fields, {**placing, **STARTS.get(name, {}), **arguments, **seeds})
        return wrapped(model, config, settings, seed)

    build.__doc__ = f"PEFT's {config.__name__}: {(inspect.getdoc(config) or '').splitlines()[0]}"
    build.__signature__ = inspect.Signature(_parameters(name, config, placing))  # type: ignore[attr-defined]
    return build


def _settings(model: PreTrainedModel, fields: set[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in arguments.items() if key in fields}
    targets = arguments.get("targets")
    if "target_modules" not in fields or targets is None or settings.get("target_modules") is not None:
        if arguments.get("layers") is not None:
            raise BadInput("`layers` narrows `targets`, and this method or these settings have none.")
        return settings
    names = target_modules(model, targets, arguments.get("layers"))
    turned = {"fan_in_fan_out": transposed(model, names)} if "fan_in_fan_out" in fields else {}
    return {**settings, **turned, "target_modules": names}


def _parameters(name: str, config: type[PeftConfig], placing: Mapping[str, Any]) -> list[inspect.Parameter]:
    """`model`, what is ours, the config's own fields with their defaults, and `seed`."""
    shared = {field.name for field in dataclasses.fields(PeftConfig)}
    own = {f.name: _default(f) for f in dataclasses.fields(config) if f.name not in shared | FILLED}
    more = {**placing, "layers": None, "target_modules": None} if placing else {}
    unset = {key: None for key in SEEDS if key in own}
    known = {**more, **own, **unset, **STARTS.get(name, {}), "seed": 0}
    hints = {"targets": str | list[str] | None, "layers": str | None, **get_type_hints(config)}
    made = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=hints.get(key, Any))
        for key, value in known.items()
    ]
    return [inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD), *made]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


for _type, _config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
    if _type.value not in OURS:
        _traits = Traits(merges=_type.value not in APART, kind=_type.value)
        methods.register(_type.value.lower(), _traits)(by_name(_type.value, _config))
