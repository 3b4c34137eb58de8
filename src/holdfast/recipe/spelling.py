"""Short forms of a recipe in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast._errors import BadInput, UnknownName
from holdfast.adapters.presets import PRESETS


def spelt_out(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Short forms in full: `learn: text`, `method: lora`, `- frozen`."""
    full = dict(raw)
    for key, name in (("learn", "data"), ("method", "name")):
        if isinstance(full.get(key), str):
            full[key] = {name: full[key]}
    if isinstance(full.get("method"), Mapping) and full["method"].get("preset") is not None:
        full["method"] = _preset(full["method"])
    if isinstance(full.get("rules"), list):
        full["rules"] = [_entry(rule) for rule in full["rules"]]
    return {key: value for key, value in full.items() if value is not None}


def _preset(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method by its preset, with what the recipe says beside it; another rank brings its own alpha."""
    told = {key: value for key, value in method.items() if key != "preset"}
    if method["preset"] not in PRESETS:
        raise UnknownName("preset of a method called", str(method["preset"]), PRESETS)
    named = PRESETS[method["preset"]]
    if told.get("name", named["name"]) != named["name"]:
        raise BadInput(
            f"The preset {method['preset']!r} is of the method {named['name']!r}; leave the other name away."
        )
    return {**{key: value for key, value in named.items() if key != "alpha" or "rank" not in told}, **told}


def _entry(rule: Any) -> Any:
    if isinstance(rule, str):
        return {rule: {}}
    return {name: {} if a is None else a for name, a in rule.items()} if isinstance(rule, Mapping) else rule
