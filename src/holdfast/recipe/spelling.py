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
    if full.get("freeze_llm") is True:
        full["method"] = _frozen(full.get("method"))
    if isinstance(full.get("method"), Mapping) and full["method"].get("preset") is not None:
        full["method"] = _preset(full["method"])
    if isinstance(full.get("rules"), list):
        full["rules"] = [_entry(rule) for rule in full["rules"]]
    return {key: value for key, value in full.items() if value is not None}


def _frozen(method: Any) -> dict[str, Any]:
    """`freeze_llm: true` is a method of its own."""
    if method not in (None, {}) and (not isinstance(method, Mapping) or method.get("name") != "rows"):
        raise BadInput(
            "`freeze_llm: true` trains the rows of new tokens and nothing else, and the recipe names a method beside "
            "it. Leave one of them away: under `vocabulary`, new rows train with every method."
        )
    return {"name": "rows", **(method or {})}


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
