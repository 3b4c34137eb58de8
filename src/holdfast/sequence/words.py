"""The words by which rules of a sequence name what came before a task: rows, importance, adapters, and its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.remedies.carried import FILE

TASKS = "tasks"
"""All earlier tasks: their remembered rows as a `source`, their adapters, and under `keep.budget` all of them."""

BEFORE = "before"
"""The task before: its rows as a `source`, and as `importance` what the same rule left behind in its run folder."""

MADE_UP = "before/"
"""How sources begin that the model before the task makes up: `before/self`, `before/self/sound`, `before/self/chat`."""

Rules = list[dict[str, dict[str, Any]]]


def resolved(rules: Sequence[Mapping[str, Any]], former: Rules | None, folders: Sequence[Path]) -> Rules:
    """The rules of one task, with what they name of earlier tasks; `folders` are the run folders of those.

    `former` are the rules of the task before, so resolved; None for the first task. A rule whose source or adapters
    name nothing that is there yet is left out, but for replay: at a share of 0 it stays for rules that need one.
    Importance that the task before did not leave is not carried.
    """
    told = [(name, _told(name, dict(given or {}), former, folders)) for entry in rules for name, given in entry.items()]
    return [
        {name: {**given, "share": 0.0} if given.get("source") == [] else given}
        for name, given in told
        if given.get("adapters") != [] and (given.get("source") != [] or name == "replay")
    ]


def earlier(source: str) -> bool:
    """Whether a source names what came before a task, so that the first one has nothing of it."""
    return source in (TASKS, BEFORE) or source.startswith(MADE_UP)


def asked(rules: Sequence[Mapping[str, Any]]) -> list[str]:
    """All sources that rules name, each once."""
    given = [arguments or {} for entry in rules for arguments in entry.values()]
    return list(dict.fromkeys(name for arguments in given for name in sources(arguments.get("source"))))


def sources(source: str | Sequence[str] | None) -> list[str]:
    """What a rule's `source` names, one after the other."""
    return [] if source is None else [source] if isinstance(source, str) else list(source)


def _told(name: str, given: dict[str, Any], former: Rules | None, folders: Sequence[Path]) -> dict[str, Any]:
    if not folders and any(map(earlier, sources(given.get("source")))):
        given["source"] = [source for source in sources(given["source"]) if not earlier(source)]
    if given.get("adapters") == TASKS:
        given["adapters"] = [str(folder / "final") for folder in folders]
    if given.get("importance") == BEFORE:
        left = any(name in entry for entry in former or ())
        given["importance"] = str(folders[-1] / name / FILE) if left else None
    return given
