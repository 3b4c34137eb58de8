"""What docs/benchmarks.md says of items and new words: rows, decoding, semantic IDs, and what is forgotten."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from page_table import table
from plane_picture import front, picture

Found = dict[str, Any]


def vocabulary_rows(found: Found) -> str:
    rows = [
        [r["case"], r["way"], f"{r['trained']:,}", f"{r['bytes'] / 2**20:,.1f} MiB ({r['more bytes']:.0f}x)",
         "" if r["memory"] is None else f"{r['memory'] / 2**30:.2f} GiB",
         "" if r["way"].endswith("ours") else f"{r['ours takes']:.2f}x ({r['low']:.2f} to {r['high']:.2f})",
         f"{r['old rows']:.1e}" if r["old rows"] else "0.0"]
        for r in found["found"]
    ]  # fmt: skip
    head = [
        "vocabulary",
        "way",
        "trains",
        "optimiser and gradient",
        "peak memory",
        "our step takes",
        "old rows moved by",
    ]
    return (
        f"{found['new']} new rows of a random model train and nothing else, by AdamW with weight decay 0.1 on "
        f"{found['tokens']} tokens a step; the three ways take turns. A masked gradient still lets weight decay shrink "
        "every old row, and keeps optimiser state for all of them; PEFT's trainable tokens copy the matrix in each "
        "step. The smaller matrix has only 58 times as many rows as are new: 58 times fewer bytes are all there is; "
        "and above it stand four layers of 44 M weights. Counted in multiplications, a token costs PEFT's way 552 M "
        "there (it makes the gradient of the whole head) and ours 485 M, which is 0.88; 0.8 is out of reach.\n\n"
        f"{table(head, rows)}\n\nGPU: {found['gpu']}."
    )


def decoding(found: Found) -> str:
    parts = [
        f"50 beams among {found['index']}'s items; processor time beside unconstrained beam search with as many new "
        "tokens, in turns. Constrained, every result is an item; `recommend` is our own search, which reads a "
        "prompt once."
    ]
    for model, ways in found["models"].items():
        rows = [
            [way, f"{told['ratio']:.2f}x", f"{told['items']:.0%}",
             f"{1000 * median(told['seconds']):,.0f} ms"]
            for way, told in ways.items() if isinstance(told, dict) and "ratio" in told
        ]  # fmt: skip
        parts.append(f"**{model}**\n\n{table(['way', 'time', 'results that are items', 'median'], rows)}")
    return "\n\n".join(parts)


def quantise(found: Found) -> str:
    fast = found["speed"]
    levels = [
        [f"level {i}", f"{level['seconds']:.1f} s",
         f"{level['scikit_learn_seconds']:.1f} s" if "scikit_learn_seconds" in level else "not run",
         f"{level['inertia'] / level['scikit_learn_inertia']:.4f}" if "scikit_learn_inertia" in level else ""]
        for i, level in enumerate(fast["levels"], 1)
    ]  # fmt: skip
    head = ["", "ours", "scikit-learn", "inertia, ratio"]
    parts = [f"Residual k-means of 100,000 items x 256 dimensions into 3 x 256 codes: {fast['seconds']:.0f} s on "
             f"{found['threads']} threads.", table(head, levels)]  # fmt: skip
    if isinstance(found["worth"], str):
        return "\n\n".join([*parts, found["worth"]])
    rows = [
        [name, r["before"]["items"], r["after"]["items"], f"{r['error']:.3f}",
         *(f"{n['share']:.3f} ({n['lift']:.0f}x)" for n in r["neighbourhoods"]),
         ", ".join(f"{level['perplexity']:.0f}" for level in r["levels"])]
        for name, r in found["worth"].items()
    ]  # fmt: skip
    head = ["IDs", "items sharing one before", "after", "error", "neighbours with the first code", "the first two",
            "perplexity by level"]  # fmt: skip
    return "\n\n".join([*parts, table(head, rows)])


def semantic_ids(found: Found) -> str:
    rows = [
        [r["way"], f"{r['rate']:g}", _over(r["hr@10"], ".3f"), _over(r["ndcg@10"], ".3f"),
         *(_over(r["kept"][text][key], "+.3f") for text in r["kept"] for key in ("rise", "old")), _verdicts(r)]
        for r in found["summary"]
    ]  # fmt: skip
    rows += [[f"*{name}*", "", f"{s['hr@10']:.3f}", f"{s['ndcg@10']:.3f}", "", "", "", "", ""]
             for name, s in sorted(found["baselines"].items(), key=lambda pair: -pair[1]["hr@10"])]  # fmt: skip
    head = ["way", "rate", "HR@10 (seeds)", "NDCG@10", "stories, nats", "old tokens alone", "Shakespeare, nats",
            "old tokens alone", "budget of 2 % on stories"]  # fmt: skip
    items = found["items"]
    return (
        f"The embedded base learns which of {items['items']} items follows a history ({items['source']}; "
        f"{items['train']:,} training rows, {items['tokens']} new tokens, IDs from titles), {found['steps']} steps "
        "each, three seeds, rates chosen alike on validation cases. Forgotten is the rise of the loss on texts that "
        "the base knew, in nats per token; over the old tokens alone, it leaves out probability that went to new ones. "
        "In italics what needs no model.\n\n"
        "![Recommending against forgetting](semantic-ids.png)\n\n" + table(head, rows)
    )


def semantic_ids_picture(found: Found, file: Path) -> None:
    """HR@10 against what is forgotten, on each text."""
    summary = [
        {"task": text, "case": r["way"], "accuracy": r["hr@10"][0], "lowest": r["hr@10"][1], "highest": r["hr@10"][2],
         **dict(zip(("rise", "low", "high"), r["kept"][text]["rise"], strict=True))}
        for r in found["summary"] for text in r["kept"]
    ]  # fmt: skip
    fronts = {
        text: front([s for s in summary if s["task"] == text]) for text in dict.fromkeys(s["task"] for s in summary)
    }
    picture(summary, fronts, file, learnt="HR@10 (lowest and highest seed)",
            forgotten="forgotten, nats per token (lowest and highest seed)", logarithmic=True)  # fmt: skip


def _over(values: list[float], form: str) -> str:
    mean, low, high = (format(value, form) for value in values)
    return mean if low == high else f"{mean} ({low} to {high})"


def _verdicts(row: Found) -> str:
    kept = [verdict for verdict in row["verdicts"] if verdict]
    return f"{kept.count('holds')} of {len(kept)} hold" if kept else ""
