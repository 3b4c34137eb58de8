"""What is wrong with a recipe, in a sentence that names the place and the nearest thing that exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from holdfast._errors import BadInput, UnknownName
from holdfast.budget import SMALL


def explained(error: ValidationError, raw: Any, whole: type[BaseModel]) -> BadInput:
    """The first fault of a recipe, as `whole` checks it, in a sentence."""
    fault = max(error.errors(), key=lambda fault: len(_place(fault, raw)))
    where = _place(fault, raw)
    if fault["type"] == "extra_forbidden":
        of = f"`{where[0]}`" if len(where) > 1 else "a recipe"
        return UnknownName(f"key of {of} called", where[-1], _part(whole, where).model_fields)
    if fault["type"] == "missing":
        return BadInput(f"The recipe lacks `{'.'.join(where)}`.")
    given = "" if isinstance(fault["input"], Mapping | list) else f", not {fault['input']!r}"
    more = f" {SMALL}" if where[:2] == ["keep", "budget"] and fault["type"] == "greater_than" else ""
    return BadInput(f"The recipe's `{'.'.join(where)}` cannot be used: {_lower(fault['msg'])}{given}.{more}")


def _part(whole: type[BaseModel], where: list[str]) -> type[BaseModel]:
    """The part of a recipe that has keys at this place: a mapping, or each entry of a list of mappings."""
    if len(where) < 2:
        return whole
    annotation = whole.model_fields[where[0]].annotation
    part = next(iter(get_args(annotation)), annotation)
    assert isinstance(part, type) and issubclass(part, BaseModel)
    return part


def _place(fault: Any, raw: Any) -> list[str]:
    """Where in the recipe a fault is; where a key may have several types, pydantic's path names them as well."""
    where: list[str] = []
    for step in fault["loc"]:
        inside = step in raw if isinstance(raw, Mapping) else isinstance(raw, list) and isinstance(step, int)
        if inside or fault["type"] == "missing":
            where, raw = [*where, str(step)], raw[step] if inside else None
    return where


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def known(kind: str, given: Iterable[str], names: Iterable[str], placed: Mapping[str, str] | None = None) -> None:
    """Raise UnknownName for a given name that is not among `names`, or BadInput where it is `placed` elsewhere."""
    for name in given:
        if placed and name in placed:
            raise BadInput(f"{name!r} does not stand here. {placed[name]}")
        if name not in set(names):
            raise UnknownName(kind, name, names)
