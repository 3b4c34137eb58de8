"""The public face is a short sorted list, and it opens quickly."""

from __future__ import annotations

import subprocess
import sys

import pytest

import holdfast

PUBLIC = [
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


def test_the_public_names_are_these() -> None:
    assert holdfast.__all__ == PUBLIC == sorted(PUBLIC)
    assert dir(holdfast) == sorted([*PUBLIC, "__version__"])


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_there_and_documented(name: str) -> None:
    thing = getattr(holdfast, name)
    assert thing.__module__.startswith("holdfast.")
    assert thing.__doc__


def test_rooms_come_when_they_are_asked_for() -> None:
    assert holdfast.recipe.load is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        holdfast.nothing  # noqa: B018
    with pytest.raises(AttributeError):
        holdfast._private  # noqa: B018


def test_neither_the_package_nor_the_command_line_imports_torch() -> None:
    program = "import sys, holdfast, holdfast.cli; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
