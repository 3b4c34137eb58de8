"""The demo: the same steps spent three ways on the embedded model, with a table, samples and a report at the end."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from holdfast.display import Display
from holdfast.evaluation.report import FORMATS, render_table, write_report
from holdfast.recipe import load, run

TITLE = "Three ways to spend the same steps"
RUNS = ("plain", "remedies", "governed")
"""Each is the shipped recipe demo-NAME."""

QUICK = ("train.max_steps=60", "keep.rows=512", "monitor.rows=32")
"""What makes the demo a quick look."""


def demo(output: Path, console: Console, *, quick: bool = False) -> bool:
    """Make the three runs in `output` and show them; False where one was interrupted.

    What stood in `output` is replaced at the end, and only if all went well.
    """
    started = time.perf_counter()
    aside = output.with_name(f".{output.name}-{os.getpid()}")
    try:
        if not _made(output, aside, console, QUICK if quick else ()):
            return False
        for ending in FORMATS:
            write_report([aside / name for name in RUNS], aside / f"report{ending}", title=TITLE)
        _swapped(aside, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    folders = [output / name for name in RUNS]
    console.print(render_table(folders), *(_samples(folders)), sep="\n")
    seconds = time.perf_counter() - started
    console.print(f"Report: {output / 'report.html'}   Total time: {seconds // 60:.0f} min {seconds % 60:.0f} s")
    return True


def _made(output: Path, aside: Path, console: Console, overrides: Sequence[str]) -> bool:
    with Display(console, runs=len(RUNS)) as display:
        for name in RUNS:
            watcher = display.run(name)
            recipe = load(f"demo-{name}", [*overrides, f"output={output / name}"])
            if run(recipe, progress=watcher, folder=aside / name).certificate is None:
                return False
            watcher.done()
    return True


def _swapped(new: Path, place: Path) -> None:
    """Put a folder in its place; the one that stood there is gone only when the new one stands."""
    old = place.with_name(f".{place.name}-old-{os.getpid()}")
    if place.exists():
        os.replace(place, old)
    os.replace(new, place)
    shutil.rmtree(old, ignore_errors=True)


def _samples(folders: Sequence[Path]) -> list[Panel]:
    """A panel for each prompt: how the base and each run go on."""
    written = {folder.name: json.loads((folder / "samples.json").read_text("utf-8")) for folder in folders}
    first = next(iter(written.values()))
    panels = []
    for i, sample in enumerate(first):
        told = [("base", sample["base"]), *((name, samples[i]["tuned"]) for name, samples in written.items())]
        texts = [Text.assemble((f"{name}: ", "bold"), text) for name, text in told]
        panels.append(Panel(Group(*texts), title=f"{sample['about']}: {sample['prompt'].strip()}", title_align="left"))
    return panels
