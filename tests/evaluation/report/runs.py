"""Invented run folders for the tests of the report: smooth made-up curves, no measurement of anything."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS, EVERY, BUDGET = 300, 20, 0.02
NEW, OLD = "tiny/shakespeare", {"self": "sampled from the base model, seed 0", "tiny/stories": "stories, audit third"}


@dataclass(frozen=True)
class Shape:
    """How an invented run goes: its final gain and rises in nats, its seconds, and whether a governor speaks."""

    gain: float
    rises: dict[str, float]
    seconds: float
    rules: tuple[str, ...] = ()
    governed: bool = False
    verdict: str = "broken"
    alarmed: bool = False


SHAPES = {
    "plain": Shape(1.6812, {"self": 1.4435, "tiny/stories": 1.7702}, 41.25),
    "remedies": Shape(1.5307, {"self": 0.0604, "tiny/stories": 0.0885}, 66.5, ("distill",), alarmed=True),
    "governed": Shape(1.3158, {"self": 0.0121, "tiny/stories": 0.0093}, 79.75, ("distill", "ewc"), True, "holds"),
}


def write_runs(folder: Path, names: Iterable[str] = SHAPES) -> list[Path]:
    """Write an invented run folder for each name and return their paths."""
    return [write_run(folder / name, SHAPES[name]) for name in names]


def write_run(folder: Path, shape: Shape) -> Path:
    """Write one invented run folder."""
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log(shape)), encoding="utf-8")
    (folder / "certificate.json").write_text(json.dumps(certificate(shape)), encoding="utf-8")
    (folder / "samples.json").write_text(json.dumps(samples(folder.name), ensure_ascii=False), encoding="utf-8")
    (folder / "recipe.yaml").write_text(f"base: tiny\noutput: runs/{folder.name}\nseed: 0\n", encoding="utf-8")
    return folder


def log(shape: Shape) -> list[dict[str, Any]]:
    """The lines of an invented log."""
    dice = random.Random(0)
    lines: list[dict[str, Any]] = []
    for step in range(10, STEPS + 1, 10):
        lines.append(_train(step, shape, dice))
        if step % EVERY == 0:
            lines += _looks(step, shape, dice)
        if shape.alarmed and step % 60 == 0:
            lines += _warnings(step)
        if shape.governed and step % EVERY == 0:
            lines += _decisions(step)
        if step % 100 == 0:
            lines.append({"kind": "movement", "step": step, "groups": groups(step / STEPS, shape)})
    return lines


def _train(step: int, shape: Shape, dice: random.Random) -> dict[str, Any]:
    loss = 4.6 - shape.gain * (1 - math.exp(-step / 70)) + dice.gauss(0, 0.03)
    penalties = {f"penalty/{rule}": 0.06 * math.exp(-step / 200) + dice.random() / 100 for rule in shape.rules}
    return {"kind": "train", "step": step, "loss": loss, "learning_rate": 1e-3 * (1 - step / STEPS), **penalties}


def _looks(step: int, shape: Shape, dice: random.Random) -> list[dict[str, Any]]:
    gain = shape.gain * (1 - math.exp(-step / 70)) + dice.gauss(0, 0.01)
    lines = [
        {"kind": "learn", "step": step, "text": NEW, "gain": gain, "low": gain - 0.05, "high": gain + 0.05, "n": 64}
    ]
    for text, final in shape.rises.items():
        rise = final * (1 - math.exp(-step / 60)) * (1 + 0.9 * shape.governed * math.exp(-((step - 90) ** 2) / 3000))
        wide = 0.002 + 0.05 * rise
        interval = {"low": rise - wide, "high": rise + wide, "upper": rise + 0.84 * wide}
        lines.append({"kind": "probe", "step": step, "text": text, "rise": rise, **interval, "n": 256})
        lines[-1]["budget"] = math.log1p(BUDGET)
    return lines


def _warnings(step: int) -> list[dict[str, Any]]:
    about = {"step": step, "text": "tiny/stories"}
    budget = math.log1p(BUDGET)
    return [
        {"kind": "alarm", **about, "rise": 0.05, "lower": 0.031, "level": 0.99, "margin": budget},
        {"kind": "forecast", **about, "crossing": step + 33, "low": step + 20, "high": step + 51, "budget": budget},
        {"kind": "forecast", **about, "text": "self", "crossing": None, "low": None, "high": None, "budget": budget},
    ]


def _decisions(step: int) -> list[dict[str, Any]]:
    strengths = {"distill": round(8 * (1 + min(step, 120) / 60 - 0.3 * max(0, step - 180) / 60), 3), "ewc": 100.0}
    line = {"kind": "governor", "step": step, "strengths": strengths, "fraction": 1.0}
    if step in (80, 100, 120):
        back = {"action": "walked back", "fraction": 0.62, "reason": "tiny/stories stands at 0.021 nats, aim 0.016"}
        return [{**line, **back}, {**line, "action": "tightened", "used": 1.32}]
    if step > 180:
        return [{**line, "action": "loosened", "used": 0.61}]
    return [{**line, "action": "admitted", "reason": "every guarded text is inside its aim"}]


def groups(share: float, shape: Shape) -> dict[str, float]:
    """Invented movements of a model of five blocks whose embedding stays where it is."""
    size = share * (0.05 if shape.governed else 0.2)
    found = {"embedding": 0.0}
    for block in range(5):
        found |= {f"layers.{block} {c}": size * w * (1 + block) / 5 for c, w in (("attention", 0.8), ("mlp", 1.0))}
        found[f"layers.{block} norm"] = size / 50
    return {**found, "norm": size / 40}


def certificate(shape: Shape) -> dict[str, Any]:
    """An invented certificate, its figures consistent with each other."""
    return {
        "verdict": shape.verdict,
        "budget": dict.fromkeys(shape.rises, BUDGET),
        "kept": [_kept(text, rise, shape.verdict) for text, rise in shape.rises.items()],
        "learnt": [_learnt(shape.gain)],
        "base": {"name": "tiny", "digest": "sha256:5f1c0a77d2e94b0c"},
        "method": "full",
        "seed": 0,
        "steps": STEPS,
        "stopped": None,
        "seconds": shape.seconds,
        "versions": {"holdfast": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "date": "2001-01-01T00:00:00Z",
        "monitoring": {"share": 0.0634, "seconds": 2.5, "stated": 0.1, "looks": 15},
    }


def _kept(text: str, rise: float, verdict: str) -> dict[str, Any]:
    wide = 0.003 + 0.04 * rise
    upper = rise + 0.84 * wide
    return {
        "text": text, "source": OLD[text], "n": 512, "tokens": 65536, "rise": rise, "low": rise - wide,
        "high": rise + wide, "upper": upper, "ratio": math.exp(rise), "ratio_upper": math.exp(upper),
        "budget": BUDGET, "verdict": verdict, "needs": 1234 if verdict == "undecided" else None,
    }  # fmt: skip


def _learnt(gain: float) -> dict[str, Any]:
    base, loss = 4.6123, 4.6123 - gain
    return {
        "text": NEW, "source": "public-domain plays, held-out part", "n": 64, "tokens": 16384, "base_loss": base,
        "loss": loss, "gain": gain, "low": gain - 0.04, "high": gain + 0.04, "perplexity": math.exp(loss),
        "perplexity_low": math.exp(loss - 0.04), "perplexity_high": math.exp(loss + 0.04),
    }  # fmt: skip


def samples(name: str) -> list[dict[str, str]]:
    """Invented answers to two prompts, one of them in Chinese."""
    story = " there was a little girl named Lily. She loved to play outside in the park with her friends."
    return [
        {"about": "new", "prompt": "ROMEO:", "base": story, "tuned": f"\nWhat light is this, that {name} doth\nbreak?"},
        {"about": "old", "prompt": "Once upon a time,", "base": story, "tuned": f"{story} One day, she saw {name}."},
        {"about": "old", "prompt": "从前有一个", "base": "小女孩，名叫莉莉。", "tuned": "小女孩，她很喜欢在公园里玩。"},
    ]


def evaluation(model: str = "runs/governed/final") -> dict[str, Any]:
    """An invented evaluation: every verdict, two units, a Chinese suite, figures that are not finite."""
    suites = [
        _suite("grammar-en", "grammar", (0.86, 0.82), 0.041, "forgot"),
        _suite("facts-zh", "knowledge", (0.71, 0.705), 0.006, "kept", language="zh", about="常识问答：中国地理与历史"),
        _suite("arithmetic <b>", "reasoning", (0.42, 0.47), -0.05, "improved", role="learnt"),
        _suite("idioms-en", "idiom", (0.55, 0.53), 0.02, "undecided", needs=1200),
        _suite("stories", "fluency", (1.31, 1.34), 0.03, "kept", metric="loss", unit="nats per token", higher=False),
        {"suite": "empty", "dimension": "code", "unit": "score", "before": None, "after": None, "verdict": None},
    ]
    style = {"mean_length": {"mean": 1.21, "low": 0.9, "high": 1.5, "noise": 0.4}}
    suites.append({**suites[0], "suite": "style-en", "higher": None, "unit": "words", "verdict": None, "worst": []})
    output = {"fixed prompts": {"mean": 0.0213, "low": 0.018, "high": 0.025, "n": 128}}
    drift = {"output": output, "style": style}
    scores = {"gain": 1.31, "forgetting_rate": 0.2, "high_forgetting_tasks": ["grammar-en"], "is_successful": False}
    return {"base": "tiny", "model": model, "date": "2001-01-01", "suites": suites, "unguarded": ["safety", "code"],
            "drift": drift, "scores": scores}  # fmt: skip


def _suite(name: str, dimension: str, levels: tuple[float, float], worse: float, verdict: str, **other: Any) -> Any:
    before, after = ({"mean": x, "low": x - 0.03, "high": x + 0.03, "se": 0.015, "n": 400} for x in levels)
    wide = 0.04 if verdict == "undecided" else 0.015
    change = {"mean": worse, "low": worse - wide, "high": worse + wide, "upper": worse + wide, "lower": worse - wide}
    asked = {"prompt": f"The keys to the cabinet ({name})", "expected": "are", "before": "are", "after": "is",
             "score_before": 1.0, "score_after": 0.0}  # fmt: skip
    return {
        "suite": name, "about": "which of two sentences is likelier", "dimension": dimension, "language": "en",
        "role": "guarded", "metric": "choice_accuracy", "unit": "share", "higher": True, "weight": 1.0, "margin": 0.02,
        "noise": 0.004, "before": before, "after": after, "worse": change, "p": 0.03, "p_holm": 0.12,
        "verdict": verdict, "needs": None, "lost": 31, "gained": 12, "detectable": 0.025, "worst": [asked] * 2, **other,
    }  # fmt: skip
