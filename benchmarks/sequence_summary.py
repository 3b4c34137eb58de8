"""The figures of benchmarks/sequence.py: a line for each way, and what was reached of each goal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from holdfast.evaluation.matrix import over_seeds

DEFAULT, LORA, FULL = "the default recipe", "sequential LoRA", "sequential full"
Job = dict[str, Any]

MEASURES = {"acc": "ACC", "learnt": "learning accuracy", "bwt": "BWT", "stories": "stories, nats", "seconds": "seconds",
            "bytes": "memory"}  # fmt: skip


def value(run: Job, measure: str) -> float:
    return run["stories"]["mean"] if measure == "stories" else run[measure]


def summary(found: list[Job]) -> list[Job]:
    """One line for each way: the mean over orders and seeds, the interval over them, and how many there were."""
    lines = []
    for way in dict.fromkeys(r["way"] for r in found):
        mine = [r for r in found if r["way"] == way]
        spread = {m: over_seeds([value(r, m) for r in mine]) for m in MEASURES}
        lines.append({
            "way": way, "runs": len(mine), "seeds": len({r["seed"] for r in mine}),
            **{m: {"mean": i.mean, "low": i.low, "high": i.high} for m, i in spread.items()},
        })  # fmt: skip
    for way in (LORA, FULL):
        if together := [r["together"] for r in found if r["way"] == way and "together" in r]:
            means = {m: {"mean": fmean(t[m] for t in together)} for m in ("acc", "stories")}
            lines.append({"way": f"joint{way.removeprefix('sequential')}", "runs": len(together), **means})
    return lines


def goals(found: list[Job], peers: Sequence[str]) -> list[Job]:
    """Each goal: what was reached, what was asked for, and whether that is enough.

    Against a way, only the orders and seeds count that it has as well.
    """
    ours = {(r["order"], r["seed"]): r for r in found if r["way"] == DEFAULT}

    def beside(way: str, measure: str) -> tuple[float, float]:
        theirs = [r for r in found if r["way"] == way and (r["order"], r["seed"]) in ours]
        pairs = [(value(ours[r["order"], r["seed"]], measure), value(r, measure)) for r in theirs]
        return fmean(own for own, _ in pairs), fmean(other for _, other in pairs)

    ways = {r["way"] for r in found}
    if DEFAULT not in ways or LORA not in ways:
        return []
    reached = []

    def goal(what: str, figure: float, least: float) -> None:
        reached.append({"goal": what, "reached": figure, "asked": least, "met": bool(figure >= least)})

    own, lora = beside(LORA, "bwt")
    goal("BWT, against sequential LoRA: how much closer to 0", 1 - min(own, 0.0) / min(lora, -1e-9), 0.8)
    own, lora = beside(LORA, "learnt")
    goal("learning accuracy, share of sequential LoRA's", own / max(lora, 1e-9), 0.99)
    for method in (LORA, FULL):
        if joint := [r["together"]["acc"] for r in found if r["way"] == method and "together" in r]:
            above = fmean(r["acc"] for r in ours.values()) - fmean(joint)
            goal(f"ACC, above joint{method.removeprefix('sequential')}", above, -0.02)
    goal("stories, nats better", -fmean(value(r, "stories") for r in ours.values()), -0.03)
    for way in [way for way in peers if way in ways]:
        for measure, sign, share in (("bwt", 1, 0.0), ("stories", -1, 0.0), ("learnt", 1, 0.01), ("seconds", -1, 0.0)):
            own, other = beside(way, measure)
            goal(f"{MEASURES[measure]}, against {way}", sign * own, sign * other - share * abs(other))
    return reached


HEAD = ("way", "runs", "ACC", "learning accuracy", "BWT", "stories, nats", "seconds", "tensors, MiB")


FORMS = {"acc": (100, ".1f"), "learnt": (100, ".1f"), "bwt": (100, "+.1f"), "stories": (1, "+.3f"),
         "seconds": (1, ".0f"), "bytes": (2**-20, ".1f")}  # fmt: skip
"""What each measure is shown times, and how."""


def lines(table: list[Job]) -> list[list[str]]:
    return [[row["way"], str(row["runs"]), *(_cell(row, measure) for measure in FORMS)] for row in table]


def _cell(row: Job, measure: str) -> str:
    times, form = FORMS[measure]
    return f"{row[measure]['mean'] * times:{form}}" if measure in row else ""


def said(goal: Job) -> str:
    word = "reached" if goal["met"] else "missed "
    return f"{word}  {goal['goal']}: {goal['reached']:+.3f}, asked for at least {goal['asked']:+.3f}"
