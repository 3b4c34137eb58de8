"""What a run leaves: the final model or adapter with tokenizer and card, ready to be loaded by anybody."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from peft import PeftModel

from holdfast import __version__, checkpoint, tiny
from holdfast.adapters.quantised import write_settings
from holdfast.adapters.stored import CONFIG
from holdfast.evaluation.plain import write_json
from holdfast.params.heads import classifies, unwrapped
from holdfast.training import Trainer
from holdfast.vocabulary.stored import stand_beside, write_rows

PICKLE = "training_args.bin"
"""The Trainer's own pickle of its arguments; the recipe says the same in words."""


def write_final(trainer: Trainer, card: str, folder: Path) -> None:
    """Model (or adapter), tokenizer and card, in Hugging Face's layout, whole or not at all."""
    first = bool(trainer.args.should_save)
    staging = folder.with_name(f".{folder.name}")
    with checkpoint.kept_whole(staging, folder, first=first, meet=trainer.accelerator.wait_for_everyone):
        trainer.save_model(str(staging))
        if stand_beside(trainer.model):
            write_rows(trainer.model, cast(Any, trainer.processing_class), staging, first=first)
        if first:
            (staging / PICKLE).unlink(missing_ok=True)
            write_settings(trainer.model, staging)
            _name_base(staging / CONFIG)
            if classifies(trainer.model) and isinstance(trainer.model, PeftModel):  # an adapter knows no labels
                cast(Any, unwrapped(trainer.model)).config.save_pretrained(staging)
            (staging / "README.md").write_text(card, encoding="utf-8")


def _name_base(config: Path) -> None:
    """In an adapter's config, the embedded base by its name: where it lies differs from one machine to the next."""
    told = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    if told.get("base_model_name_or_path") == str(tiny.MODEL):
        write_json({**told, "base_model_name_or_path": "tiny"}, config)


def versions() -> dict[str, str]:
    """The versions that figures depend on."""
    return {
        "holdfast": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def model_card(certificate: Mapping[str, Any], recipe: str, adapter: bool) -> str:
    """A card in the Hub's form: what was learnt and kept, from which base, with which settings."""
    kept = [_kept(entry) for entry in certificate["kept"]]
    learnt = [
        f"| {e['text']} | {e['perplexity']:.2f} [{e['perplexity_low']:.2f}, {e['perplexity_high']:.2f}] "
        f"| {e['gain']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}] | {e['n']} |"
        for e in certificate["learnt"]
    ]
    scored = [
        f"- {e['text']}: accuracy {e['accuracy']:.1%} [{e['accuracy_low']:.1%}, {e['accuracy_high']:.1%}], macro-F1 "
        f"{e['macro_f1']:.3f} [{e['macro_f1_low']:.3f}, {e['macro_f1_high']:.3f}]; the most frequent label alone "
        f"gives {e['majority']:.1%}. The gain counts from the best constant guess."
        for e in certificate["learnt"]
        if "accuracy" in e
    ]
    stopped = [f"\nThe run stopped early: {certificate['stopped']}\n"] if certificate["stopped"] else []
    return "\n".join(
        [
            "---",
            f"base_model: {certificate['base']['name']}",
            f"library_name: {'peft' if adapter else 'transformers'}",
            f"pipeline_tag: {'text-classification' if scored else 'text-generation'}",
            "tags: [holdfast]",
            "---",
            "",
            f"# {certificate['base']['name']}, taught with Holdfast",
            "",
            f"Trained by the method `{certificate['method']}` for {certificate['steps']} steps (seed "
            f"{certificate['seed']}) from `{certificate['base']['name']}` (SHA-256 of config and weights: "
            f"`{certificate['base']['digest']}`).",
            *stopped,
            "",
            "## Learnt",
            "",
            "| text | perplexity [95 %] | gain, nats per token [95 %] | documents |",
            "|---|---|---|---|",
            *learnt,
            *(["", *scored] if scored else []),
            "",
            "## Kept",
            "",
            f"Certificate: **{certificate['verdict'] or 'no budget was set'}**.",
            "Measured once, on text that steered nothing.",
            "",
            "| text | source | rise of perplexity | one-sided 95 % bound | allowed | verdict | documents |",
            "|---|---|---|---|---|---|---|",
            *kept,
            "",
            "## Settings",
            "",
            "```yaml",
            recipe.rstrip(),
            "```",
            "",
            "Versions: " + ", ".join(f"{name} {version}" for name, version in certificate["versions"].items()) + ".",
            "",
        ]
    )


def _kept(entry: Mapping[str, Any]) -> str:
    allowed = "" if entry["budget"] is None else f"{entry['budget']:.1%}"
    rise, bound = (f"{entry[key] - 1:+.2%}" for key in ("ratio", "ratio_upper"))
    verdict = entry["verdict"] or ""
    return f"| {entry['text']} | {entry['source']} | {rise} | {bound} | {allowed} | {verdict} | {entry['n']} |"
