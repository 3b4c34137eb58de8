"""Writes docs/benchmarks.md from the results; every figure on that page comes from benchmarks/results/*.json.

python benchmarks/page.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

Found = dict[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(value: float | None) -> str:
    return "none holds" if value is None else f"{value:.1%}"


def budget(found: Found) -> str:
    rows = [
        [r["method"], f"{r['budget']:.0%}", f"{r['held']} of {r['seeds']}", percent(r["kept"]), percent(r["least"]),
         percent(r["walked_back"]), percent(r["kept_seed_0"]),
         percent(r["best_fixed_seed_0"]) if r["grid"] else "not measured"]
        for r in found["summary"]
    ]  # fmt: skip
    head = ["method", "budget", "certificates that hold", "governed", "lowest seed", "(a) walked back", "seed 0",
            "(b) best fixed, seed 0"]  # fmt: skip
    plain = [r["gain"] for r in found["runs"] if r["kind"] == "plain"]
    return (
        "The embedded base learns Shakespeare and keeps two texts: what it makes up, and real stories. Shares are of "
        f"the gain of plain fine-tuning with the same {found['steps']} steps "
        f"({min(plain):.2f} to {max(plain):.2f} nats per token).\n"
        "Only the budgets, methods and seeds in the table have been measured so far.\n"
        "(a) is that plain run walked back after training to the same budget; (b) the best of ten runs with fixed "
        "strengths, chosen with hindsight among those whose certificate holds: ten times the compute.\n"
        "Every governed run starts from the same strength and knows nothing of the others.\n\n" + table(head, rows)
    )


def selfmade(found: Found) -> str:
    rows = [
        [r["way"], f"{r['gain']:.2f}", f"{math.expm1(r['self']):+.1%}",
         f"{math.expm1(r['real']):+.1%} ({math.expm1(r['low']):+.1%} to {math.expm1(r['high']):+.1%})"]
        for r in found["runs"]
    ]  # fmt: skip
    head = ["text that is guarded and replayed", "gain, nats", "perplexity of self-made text", "of real stories (95 %)"]
    return (
        "For users without any old text: one governed run for each way to make text up, budget 2 %, and what became of "
        "real stories that nothing guarded.\n\n" + table(head, rows)
    )


def fisher(found: Found) -> str:
    rows = [
        [model, way, f"{r['error']:.1e}" if "error" in r else "", f"{r['mass']:.3f}" if "mass" in r else "",
         f"{r['training_passes']:.2f}", f"{r['peak_mib']:.0f} MiB" if "peak_mib" in r else ""]
        for model, ways in found["devices"]["cpu"].items() for way, r in ways.items()
    ]  # fmt: skip
    head = ["model", "way", "largest relative error", "mass", "training passes", "peak memory"]
    return (
        "The diagonal empirical Fisher information from per-example gradients, against a loop over single sequences. "
        "Time is processor time, in training passes (forward and backward) over the same rows.\n\n"
        f"{table(head, rows)}\n\n{found['verdict']}. GPU: {found['devices']['cuda']}."
    )


def generic(found: Found) -> str:
    """A table of rows that are already words and numbers."""
    head, rows = found["table"]["head"], found["table"]["rows"]
    return f"{found.get('about', '')}\n\n{table(head, rows)}\n\n{found.get('verdict', '')}".strip()


SECTIONS = {
    "budget": ("Keeping a budget, and using it up", budget),
    "selfmade": ("A self-made probe flatters", selfmade),
    "overhead": ("What the rules cost", generic),
    "fisher": ("Fisher information: exact, and how fast", fisher),
}


def page() -> str:
    parts = ["# Benchmarks\n\nWritten by `python benchmarks/page.py` from `benchmarks/results/`; do not edit by hand."]
    for name, (title, render) in SECTIONS.items():
        file = RESULTS / f"{name}.json"
        if not file.is_file():
            parts.append(f"## {title}\n\nNot measured. Command: `python benchmarks/{name}.py`")
            continue
        found = json.loads(file.read_text("utf-8"))
        machine = found["machine"] if isinstance(found["machine"], dict) else {"machine": found["machine"]}
        where = ", ".join(f"{k} {v}" for k, v in machine.items())
        command = found.get("command", f"python benchmarks/{name}.py" + (" --quick" if found.get("quick") else ""))
        parts.append(f"## {title}\n\n{render(found)}\n\n`{command}`, {found['date']}: {where}.")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"PASS: wrote {PAGE}")
