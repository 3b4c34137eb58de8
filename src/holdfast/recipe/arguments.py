"""What stands under `train`: each value is checked against the type that Hugging Face declares for its argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from transformers import TrainingArguments

from holdfast._errors import BadInput

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    list: "a list",
}


def check_arguments(given: Mapping[str, Any]) -> None:
    """Raise BadInput, with key and value, where a value is not of its argument's type.

    Types that cannot be told from plain values are left to Hugging Face, and so is what a fitting value means.

    >>> check_arguments({"max_steps": "abc"})
    Traceback (most recent call last):
    holdfast._errors.BadInput: The recipe's `train.max_steps` cannot be used: it is a whole number, not 'abc'.
    """
    check_types(given, _types(), "train")


def check_types(given: Mapping[str, Any], types: Mapping[str, list[Any]], of: str) -> None:
    """The same for any mapping of a recipe, `of` by name, whose values may each have several types."""
    for key, value in given.items():
        kinds = types.get(key, [Any])
        if not any(_fits(value, kind) for kind in kinds):
            told = _said(kinds)
            bare = " A bare no or off is false in YAML: put it into quotes." if value is False and str in kinds else ""
            raise BadInput(f"The recipe's `{of}.{key}` cannot be used: it is {told}, not {value!r}.{bare}")


def types_of(hints: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The types that each annotated thing may have, unions taken apart."""
    unions = (Union, UnionType)
    return {key: list(get_args(kind)) if get_origin(kind) in unions else [kind] for key, kind in hints.items()}


@cache
def _types() -> dict[str, list[Any]]:
    """The types that each training argument may have."""
    return types_of(get_type_hints(TrainingArguments))


def _fits(value: Any, kind: Any) -> bool:
    """Whether a plain value may be of a type; a word may be any member of an enumeration, and 1e3 is whole."""
    plain = get_origin(kind) or kind
    if plain is Literal:
        return value in get_args(kind)
    if not isinstance(plain, type) or not (plain in (NoneType, *_WORDS) or issubclass(plain, Enum)):
        return True
    if isinstance(value, bool) or plain is bool:
        return isinstance(value, bool) and plain is bool
    if plain is int:
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if issubclass(plain, Enum):
        return isinstance(value, plain) or value in [member.value for member in plain]
    return isinstance(value, (int, float) if plain is float else plain)


def _said(kinds: Sequence[Any]) -> str:
    """Types in words, but for None, which a recipe says by leaving the key away; an enumeration by its words."""
    plain = [get_origin(kind) or kind for kind in kinds]
    if names := next((kind for kind in plain if isinstance(kind, type) and issubclass(kind, Enum)), None):
        return f"a name such as {' or '.join(str(member.value) for member in list(names)[:4])}"
    return " or ".join(_WORDS[kind] for kind in plain if kind in _WORDS)
