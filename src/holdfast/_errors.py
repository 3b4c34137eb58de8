"""Everything that can go wrong, as one small tree; each message says what to do.

HoldfastError
├── BadInput            something handed over cannot be used: a recipe, a record, a model, a checkpoint
│   ├── UnknownName     a key, a rule or a method that does not exist, with the nearest that does
│   ├── UnmatchedSelect a selection that matches no parameter, with the nearest paths
│   ├── BadRecord       a record of a data file, with its file and line
│   └── BadCheckpoint   a checkpoint that is incomplete or belongs to something else
├── ExportRefused       a model that would not answer, once written, as it did before
├── Unsupported         the host or the model cannot keep a promise that was asked for
│   └── MissingExtra    an optional package that is not installed
├── OutOfMemory         a step that did not fit, with what to change and what that saves
└── TrainingStopped     a run that had to stop; the last admitted weights are kept
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HoldfastError(Exception):
    """Base of all errors that Holdfast raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 2


class BadInput(HoldfastError):
    """Something that was handed over cannot be used."""


class UnknownName(BadInput):
    """A name that does not exist, answered with the nearest names that do."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else f"Known: {', '.join(names)}."
        super().__init__(f"There is no {kind} {name!r}. {hint}")


class UnmatchedSelect(BadInput):
    """A selection that matches no parameter."""


class BadRecord(BadInput):
    """A record of a data file that cannot be read."""

    def __init__(self, file: object, line: int, why: str):
        super().__init__(f"{file}, line {line}: {why}")


class BadCheckpoint(BadInput):
    """A checkpoint that is incomplete, damaged, or made for something else."""


class ExportRefused(HoldfastError):
    """A model that would not answer, once merged or written, as it did before; nothing was written."""


class Unsupported(HoldfastError):
    """A promise that this host or model cannot keep; said before the first step."""


class MissingExtra(Unsupported):
    """A thing that takes an optional package, which is not installed."""

    def __init__(self, thing: str, extra: str):
        super().__init__(f"{thing} takes an optional package: pip install 'holdfast[{extra}]'.")


class OutOfMemory(HoldfastError):
    """Memory was not enough for a step; nothing was learnt that a checkpoint does not hold."""

    exit_code = 4


class TrainingStopped(HoldfastError):
    """A run that had to stop before its end; the last admitted weights are kept."""

    exit_code = 4
