"""Writes docs/benchmarks.md, and the figures of docs/choosing.md and docs/methods.md, from benchmarks/results/*.json.

python benchmarks/page.py
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from page_items import decoding, quantise, semantic_ids, semantic_ids_picture, vocabulary_rows
from page_table import table
from plane_picture import picture

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
CHOOSING, METHODS = PAGE.with_name("choosing.md"), PAGE.with_name("methods.md")

Found = dict[str, Any]


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
        "real stories that nothing guarded (seed 0). Every way samples openings and middles of texts "
        "in turn.\n\n" + table(head, rows)
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


def strategies(found: Found) -> str:
    """A table for each task, and which ways were clearly above or below plain fine-tuning that learns as much."""
    parts = []
    for task in dict.fromkeys(r["task"] for r in found["summary"]):
        mine = [r for r in found["summary"] if r["task"] == task]
        rows = [
            [r["way"], r["seeds"], f"{r['accuracy']:.1%} ({r['lowest']:.1%} to {r['highest']:.1%})",
             f"{r['rise']:.2f} ({r['low']:.2f} to {r['high']:.2f})", beside(r),
             f"{r['trainable'] / 1024:,.0f} kB", f"{r['optimiser'] / 1024:,.0f} kB"]
            for r in mine
        ]  # fmt: skip
        head = ["way", "seeds", "answers right (seeds)", "stories forgotten, nats (95 %)",
                "beside plain that learns as much", "may move", "optimiser keeps"]  # fmt: skip
        parts.append(f"**{task}**, {found['steps'][task]} steps\n\n{table(head, rows)}\n\n{said(mine)}")
    return (
        "The embedded base learns a task, and stories it knew are measured before and after. All ways have the same "
        "learning rate, rows and order, and none was tuned. Whatever moves less forgets less and learns less; so the "
        "question is whether a way forgets less than plain fine-tuning that learns as much, which a lower rate gives "
        "for nothing. The fifth column says by how many nats it differs from the best line through plain runs at five "
        "rates, drawn with hindsight, with 95 % over seeds (of twenty such intervals one is expected to miss). Bytes "
        "are those at the heaviest step.\n\n" + "\n\n".join(parts)
    )


def beside(row: Found) -> str:
    if "apart" not in row:
        return "the line itself"
    return f"{row['apart']:+.2f}" + ("" if row["within"] is None else f" ± {row['within']:.2f}")


def said(rows: list[Found]) -> str:
    """What a table shows, in words."""
    named = {v: [r["way"] for r in rows if r.get("verdict") == v] for v in ("less", "no clear difference", "more")}
    words = {"less": "Forgets clearly less than plain fine-tuning that learns as much", "more": "Clearly more",
             "no clear difference": "No clear difference"}  # fmt: skip
    return " ".join(f"{words[v]}: {'; '.join(ways) or 'none'}." for v, ways in named.items())


def sequence(found: Found) -> str:
    """A line for each way, then what was reached of each goal."""
    rows = [
        [r["way"], r["runs"], *(figure(r, m, 100, ".1f") for m in ("acc", "learnt", "bwt")),
         figure(r, "stories", 1, "+.3f"), figure(r, "seconds", 1, ".0f"), figure(r, "bytes", 2**-20, ".1f")]
        for r in found["summary"]
    ]  # fmt: skip
    head = ["way", "runs", "ACC", "learning accuracy", "BWT", "stories forgotten, nats", "seconds", "tensors, MiB"]
    goals = [
        [g["goal"], f"{g['reached']:+.3f}", f"{g['asked']:+.3f}", "yes" if g["met"] else "no"] for g in found["goals"]
    ]
    missing = f"\n\nAvalanche was not measured: {found['missing']}" if found["missing"] else ""
    return (
        "The embedded base learns snips, bAbI qa1, trec, the banking part of clinc150 and SCAN one after the other, "
        f"{found['steps']} steps each; answers written greedily have to match exactly ({found['items']} test items of "
        "each task, the same for all ways). Nine runs are three orders by three seeds, three are three orders; "
        "intervals are 95 % over runs. Stories are held-out ones that no way learns from. Seconds are those of "
        "training, tensors those alive in the last step.\n\n"
        f"{table(head, rows)}\n\n{table(['goal for the default recipe', 'reached', 'at least', 'met'], goals)}{missing}"
    )


def figure(row: Found, measure: str, times: float, form: str) -> str:
    """A mean with its interval, where there is one."""
    if measure not in row:
        return ""
    mean, low, high = (row[measure].get(key) for key in ("mean", "low", "high"))
    known = measure in ("acc", "learnt", "bwt", "stories") and low is not None and math.isfinite(low)
    return f"{mean * times:{form}}" + (f" ({low * times:{form}} to {high * times:{form}})" if known else "")


def generic(found: Found) -> str:
    """A table of rows that are already words and numbers."""
    head, rows = found["table"]["head"], found["table"]["rows"]
    return f"{found.get('about', '')}\n\n{table(head, rows)}\n\n{found.get('verdict', '')}".strip()


def methods(found: Found) -> str:
    """What each method learns and forgets, a table for each task, and what a step costs."""
    parts = []
    for task, front in found["front"].items():
        rows = [
            [f"**{r['case']}**" if r["case"] in front else r["case"], f"{r['rate']:g}",
             f"{r['accuracy']:.1%} ({r['lowest']:.1%} to {r['highest']:.1%})",
             f"{r['rise']:.2f} ({r['low']:.2f} to {r['high']:.2f})", f"{r['trainable']:,}",
             f"{r['file'] / 1024:,.0f} kB"]
            for r in found["summary"] if r["task"] == task
        ]  # fmt: skip
        head = ["method", "rate", "answers right (seeds)", "stories forgotten, nats (95 %)", "trains", "file"]
        parts.append(f"**{task}**, {found['steps'][task]} steps\n\n{table(head, rows)}")
    cost = [
        [r["case"], f"{r['step']:.3f}x ({r['low']:.3f} to {r['high']:.3f})", f"{r['in the rules']:.3f}x",
         "" if r["memory"] is None else f"{r['memory']:.2f}x", "yes" if r["same"] else "no"]
        for r in found["cost"]
    ]  # fmt: skip
    head = ["method", "step (95 %)", "in the rules", "peak memory", "same weights"]
    parts.append(f"{found['about']}\n\n{table(head, cost)}\n\nGPU: {found['gpu']}.")
    return (
        "The embedded base learns a task by each method, and stories it knew are measured before and after; nothing "
        "holds it back. Every method's rate was chosen alike: of three, the one with most answers right on held-back "
        "training records. Bold: no other method learns as much and forgets less.\n\n"
        "![What is learnt against what is forgotten](methods.png)\n\n" + "\n\n".join(parts)
    )


ROWS = {
    "`full`": "full", "`lora`": "lora, mlp, rank 8", "`lora`, `rslora: true`": "rslora, mlp, rank 32",
    "`lora`, `dora: true`": "dora, mlp, rank 8", "`lora`, `init: pissa`": "pissa, mlp, rank 8",
    "`lora`, `init: olora`": "olora, mlp, rank 8", "`lora`, `init: eva`": "eva, mlp, rank 8",
    "`qlora`": "qlora, 4 bits, mlp, rank 8", "`adalora`": "adalora, mlp, rank 8",
    "`bottleneck`": "bottleneck, pfeiffer, 16", "`bottleneck`, `style: houlsby`": "bottleneck, houlsby, 16",
    "`shira`": "shira, mlp, rank 8", "`osf`": "osf, mlp, half kept", "`ia3`": "ia3", "`ln`": "ln",
    "`vera`": "vera, mlp",
    "`prompt`": "prompt, 20 tokens", "`ptuning`": "ptuning, 20 tokens", "`ptuning2`": "ptuning2, 20 tokens",
}  # fmt: skip
"""Which row of docs/methods.md tells of which measured case."""


def described(text: str) -> str:
    """The page about methods, with the figures of each row."""
    file = RESULTS / "methods.json"
    summary = json.loads(file.read_text("utf-8"))["summary"] if file.is_file() else []
    for row, case in ROWS.items():
        mine = [r for r in summary if r["case"] == case]
        learnt = " / ".join(f"{r['accuracy']:.0%}" for r in mine) or "not measured"
        rise = " / ".join(f"{r['rise']:.2f}" for r in mine) or "not measured"
        pattern = rf"^(\| {re.escape(row)} \|[^|]*\|[^|]*\|)[^|]*\|[^|]*\|"
        text = re.sub(pattern, lambda m, a=learnt, b=rise: f"{m[1]} {a} | {b} |", text, flags=re.MULTILINE)
    return text


SECTIONS = {
    "budget": ("Keeping a budget, and using it up", budget),
    "selfmade": ("Does a self-made probe flatter?", selfmade),
    "overhead": ("What the rules cost", generic),
    "sequence": ("A sequence of tasks", sequence),
    "methods": ("Training methods: what they learn and what they forget", methods),
    "semantic_ids": ("Learning to recommend by new words, and what is forgotten", semantic_ids),
    "rows": ("New rows of a vocabulary: what they cost, and whether old ones stand still", vocabulary_rows),
    "decoding": ("Constrained decoding: what it costs", decoding),
    "quantise": ("Semantic IDs: how fast, and how good", quantise),
    "strategies": ("Strategies: what they learn and what they forget", strategies),
    "strategies_cost": ("Strategies: what they cost", generic),
    "checkpoints": ("Saving a run, and going back", generic),
    "evaluation": ("Evaluation beside lm-evaluation-harness: how fast, and the same", generic),
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


def choosing(text: str) -> str:
    """The page about choosing, with the tables that it names by comments."""
    for name in re.findall("<!-- table: (.*) -->", text):
        file, (_, render) = RESULTS / f"{name}.json", SECTIONS[name]
        found = render(json.loads(file.read_text("utf-8"))) if file.is_file() else "Not measured."
        text = re.sub(f"(<!-- table: {name} -->\n).*?(<!-- end -->)", lambda m, f=found: m[1] + f + "\n" + m[2], text,
                      count=1, flags=re.DOTALL)  # fmt: skip
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    CHOOSING.write_text(choosing(CHOOSING.read_text("utf-8")), encoding="utf-8")
    if (measured := RESULTS / "methods.json").is_file():
        found = json.loads(measured.read_text("utf-8"))
        picture(found["summary"], found["front"], METHODS.with_suffix(".png"))
    if (measured := RESULTS / "semantic_ids.json").is_file():
        semantic_ids_picture(json.loads(measured.read_text("utf-8")), PAGE.with_name("semantic-ids.png"))
    METHODS.write_text(described(METHODS.read_text("utf-8")), encoding="utf-8")
    print(f"PASS: wrote {PAGE} and the figures of {CHOOSING} and {METHODS}")
