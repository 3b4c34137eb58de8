"""Imports go down the floors of the house, never up, and rooms on one floor do not see each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "holdfast"

FLOORS = (
    ("__main__",),
    ("cli",),
    ("demo", "sid_demo"),
    ("display", "watching"),
    ("llm",),
    ("sequence",),
    ("dial", "search", "export", "generation"),
    ("recipe",),
    ("training", "governor", "loop"),
    ("saving",),
    ("strategies", "remedies", "budget", "items"),
    ("adapters", "evaluation", "snapshots"),
    ("run", "run_folder"),
    ("movement", "byhand", "before", "states", "losses", "processes", "vocabulary"),
    ("rule", "checkpoint", "data", "objective"),
    ("params", "base"),
    ("tiny", "_registry"),
    ("_errors",),
)
"""Rooms from the roof to the ground; a file imports from its own room and from lower floors."""

FACE = "__init__"
"""The public face; it names what is below and is imported by nobody but the roof."""

TYPES_ONLY = {("rule", "run"), ("movement", "run"), ("byhand", "run"), ("before", "run")}
"""What a room may know of a higher one for its annotations alone."""


def violations(files: Mapping[str, str]) -> list[str]:
    """One line for each import that does not go down; `files` maps paths below the package to source text."""
    rooms = {room for floor in FLOORS for room in floor}
    heights = {room: -i for i, floor in enumerate(FLOORS) for room in floor}
    found = []
    for path, text in files.items():
        room = Path(path).parts[0].removesuffix(".py")
        if room == FACE:
            continue
        if room not in rooms:
            found.append(f"{path}: {room} stands on no floor")
            continue
        for line, target, types_only in imported(ast.parse(text)):
            fine = target == room or (target in rooms and heights[target] < heights[room])
            if not fine and not (types_only and (room, target) in TYPES_ONLY):
                found.append(f"{path}:{line}: {room} imports {target or 'a relative name'}")
    return found


def imported(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Line, room and whether it is for type checkers only, of each import of our own, wherever it stands."""
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "holdfast":
                    yield node.lineno, [*alias.name.split("."), FACE][1], id(node) in checked
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, room, id(node) in checked) for room in _rooms(node))
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            yield node.lineno, "an import at run time", False


def _rooms(node: ast.ImportFrom) -> list[str]:
    parts = (node.module or "").split(".")
    if node.level:
        return [""]
    if parts[0] != "holdfast":
        return []
    return [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names if alias.name != "__version__"]


def source() -> dict[str, str]:
    return {str(p.relative_to(SOURCE)): p.read_text("utf-8") for p in sorted(SOURCE.rglob("*.py"))}


def test_imports_only_go_down() -> None:
    files = source()
    cli = {path: files.pop(path) for path in list(files) if path.startswith("cli/")}
    assert len(files) > 40
    assert violations(files) == []
    bare = [f"{path}:{line}: cli imports {FACE}" for path, text in cli.items() for line in _bare(text)]
    assert violations(cli) == bare


def _bare(text: str) -> list[int]:
    """Lines of `import holdfast` alone, which the roof may say: it fetches rooms when a command needs them."""
    return [i for i, line in enumerate(text.splitlines(), start=1) if line == "import holdfast"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("params/weights.py", "from holdfast.recipe import run"),
        ("params/weights.py", "def f():\n    from holdfast.run import Run\n    return Run"),
        ("params/weights.py", "def f():\n    import holdfast.cli"),
        ("params/weights.py", "import holdfast"),
        ("params/weights.py", "from holdfast import rule"),
        ("params/weights.py", "from importlib import import_module\nimport_module('holdfast.cli')"),
        ("params/weights.py", "from ..cli import main"),
        ("params/weights.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from holdfast.run import Run"),
        ("adapters/lora.py", "from holdfast.evaluation.loss import sequence_losses"),
        ("checkpoint.py", "from holdfast.rule import Rule"),
        ("rule.py", "from holdfast.run import Run"),
        ("utils.py", ""),
    ],
)
def test_what_does_not_go_down_is_found(path: str, text: str) -> None:
    assert len(violations({path: text})) == 1


def test_what_goes_down_is_let_through() -> None:
    files = {
        "rule.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from holdfast.run import Run",
        "recipe/texts.py": "from holdfast.recipe.schema import Recipe\nfrom holdfast import checkpoint, __version__",
    }
    assert violations(files) == []
