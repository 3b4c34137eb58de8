"""What tests of all guides share: blocks as printed, run with ours in the place of the guide's, and signatures."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import holdfast.llm

HANDED_OVER = Path(__file__).parents[3] / "shared" / "guides"
"""Where the guides stand as they were handed over; tests that read them are skipped where they are not."""

EMPTY = inspect.Parameter.empty


def handed_over(name: str) -> str:
    """The text of a guide as it was handed over."""
    if not (file := HANDED_OVER / name).exists():
        pytest.skip(f"the guide {name} as it was handed over is not beside this checkout")
    return file.read_text("utf-8")


def fenced(text: str) -> list[str]:
    """The Python blocks between fences."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def copied(text: str) -> list[str]:
    """The blocks of a page that was copied from a browser: from the word on its button to the next line of prose."""
    parts = re.split(r"^代码语言:\w+\n复制\n", text, flags=re.MULTILINE)[1:]
    return [re.split(r"^(?=[^\x00-\x7f]|\d)", part, maxsplit=1, flags=re.MULTILINE)[0] for part in parts]


def run(block: str, space: dict[str, Any], label: str = "block") -> dict[str, Any]:
    """Run a block in a namespace."""
    exec(compile(block, label, "exec"), space)
    return space


class Ours(ast.NodeTransformer):
    """A block without its own definitions of what we export, and with `...` replaced by what is supplied."""

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return None if node.name in holdfast.llm.__all__ else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return None if node.name in holdfast.llm.__all__ else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        if isinstance(node.value, ast.Constant) and node.value.value is ...:
            node.value = ast.parse(f"SUPPLIED[{ast.unparse(node.targets[0])!r}]", mode="eval").body
        return node


def run_with_ours(block: str, space: dict[str, Any], supplied: Mapping[str, Any]) -> dict[str, Any]:
    """Run a block with our objects instead of those that it defines; `supplied` stands where it says `...`."""
    ours = ast.unparse(Ours().visit(ast.parse(block)))
    return run(f"from holdfast.llm import *\n{ours}", space | {"SUPPLIED": supplied})


def check_signature(name: str, expected: Mapping[str, Any]) -> None:
    """That a name of holdfast.llm takes the guide's arguments, in order, with its defaults; further ones are optional.

    EMPTY stands for an argument without default, and for *args and **kwargs.
    """
    thing: Any = holdfast.llm
    for part in name.split("."):
        thing = getattr(thing, part)
    assert inspect.getdoc(thing)
    taken = {k: p for k, p in inspect.signature(thing).parameters.items() if k != "self"}
    assert [k for k in taken if k in expected] == list(expected)
    assert {k: taken[k].default for k in expected} == dict(expected)
    extra = [p for k, p in taken.items() if k not in expected]
    assert all(p.default is not EMPTY or p.kind is p.VAR_KEYWORD for p in extra) or name == "UpdateHistory"
