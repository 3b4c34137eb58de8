"""What the page about the guides names is there: tests, names and files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import holdfast.llm
from tests.guides.printed import fenced, run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guides.md").read_text("utf-8")


def test_every_test_that_the_page_names_is_there() -> None:
    found = "\n".join(file.read_text("utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+?)…?`", PAGE)
    assert len(named) > 20
    assert [
        name for name in named if f"def {name}" not in found and not (ROOT / "tests" / "guides" / name).exists()
    ] == []


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)`", PAGE)
    roots = (ROOT, ROOT / "src" / "holdfast", ROOT / "tests", ROOT / "tests" / "guides")
    assert len(named) > 15
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_every_name_of_the_room_is_documented() -> None:
    assert holdfast.llm.__all__ == sorted(holdfast.llm.__all__)
    assert all(getattr(holdfast.llm, name).__doc__ for name in holdfast.llm.__all__)


def test_the_examples_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = fenced(PAGE)
    run(block, {})
    assert 0 <= float(capsys.readouterr().out.splitlines()[-1]) < 1
