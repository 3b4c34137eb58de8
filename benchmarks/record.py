"""How a benchmark shows and keeps what it measured."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def show(title: str, head: Sequence[str], lines: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> None:
    """Print a table; columns of figures stand to the right, those whose numbers are in `words` to the left."""
    shown = Table(title=title)
    for i, column in enumerate(head):
        shown.add_column(column, justify="left" if i in words else "right")
    for line in lines:
        shown.add_row(*line)
    Console(width=120).print(shown)


def verdict(missed: Sequence[str], held: str) -> str:
    """The last line: what missed its goal, or what held."""
    return "FAIL: " + "; ".join(missed) if missed else f"PASS: {held}"


def keep(file: str | Path, **found: Any) -> None:
    """Write results with date, command and machine, whole or not at all; a bare name goes to `results/`."""
    target = RESULTS / file
    target.parent.mkdir(exist_ok=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "not measured"
    machine = {
        "cores": os.cpu_count(), "processor": platform.machine(), "torch": torch.__version__,
        "transformers": transformers.__version__, "gpu": gpu,
    }  # fmt: skip
    command = " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]])
    staged = target.with_suffix(".tmp")
    about = {"date": date.today().isoformat(), "command": command, "machine": machine}
    staged.write_text(json.dumps({**about, **found}, indent=1) + "\n", "utf-8")
    staged.replace(target)
