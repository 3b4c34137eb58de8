"""Holdfast teaches a language model something new without losing what it knew, and proves it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast._errors import HoldfastError
    from holdfast.base import load_base
    from holdfast.budget import Guard
    from holdfast.governor import Governor
    from holdfast.loop import attach
    from holdfast.rule import During, Every, Rule, Within
    from holdfast.run import Run
    from holdfast.training import RulesMixin, Trainer

__version__ = "0.1.0"

__all__ = [
    "During",
    "Every",
    "Governor",
    "Guard",
    "HoldfastError",
    "Rule",
    "RulesMixin",
    "Run",
    "Trainer",
    "Within",
    "attach",
    "load_base",
]

_HOMES = {
    "_errors": ["HoldfastError"],
    "base": ["load_base"],
    "budget": ["Guard"],
    "governor": ["Governor"],
    "loop": ["attach"],
    "rule": ["During", "Every", "Rule", "Within"],
    "run": ["Run"],
    "training": ["RulesMixin", "Trainer"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Public names and modules come when they are first asked for: torch alone takes seconds to import."""
    if name in _HOME:
        return getattr(import_module(f"holdfast.{_HOME[name]}"), name)
    if not name.startswith("_"):
        try:
            return import_module(f"holdfast.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"holdfast.{name}":
                raise
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
