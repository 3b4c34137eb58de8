"""What a run leaves for others to load."""

from __future__ import annotations

from typing import Any

import yaml

from holdfast.recipe.outcome import model_card, versions

KEPT = {
    "text": "self", "source": "sampled from the base model tiny, seed 0", "n": 64, "ratio": 1.011, "ratio_upper": 1.014,
    "budget": 0.02, "verdict": "holds",
}  # fmt: skip
LEARNT = {
    "text": "plays", "n": 32, "perplexity": 12.5, "perplexity_low": 12.0, "perplexity_high": 13.0,
    "gain": 1.25, "low": 1.2, "high": 1.3,
}  # fmt: skip


def certificate(**changes: Any) -> dict[str, Any]:
    whole = {
        "verdict": "holds", "kept": [KEPT], "learnt": [LEARNT], "base": {"name": "owner/base", "digest": "abc"},
        "method": "lora", "seed": 3, "steps": 40, "stopped": None, "versions": versions(),
    }  # fmt: skip
    return {**whole, **changes}


def test_a_card_names_base_data_settings_versions_and_figures() -> None:
    card = model_card(certificate(), "base: owner/base\nseed: 3\n", adapter=True)
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "owner/base" and head["library_name"] == "peft"
    for said in (
        "plays",
        "12.50",
        "+1.250",
        "sampled from the base",
        "+1.10%",
        "+1.40%",
        "2.0%",
        "**holds**",
        "seed: 3",
    ):
        assert said in card
    assert versions()["torch"] in card and "abc" in card and "stopped" not in card


def test_a_card_does_not_hide_what_is_not_good() -> None:
    told = model_card(certificate(verdict="broken", stopped="The loss was not a finite number."), "", adapter=False)
    assert "**broken**" in told and "stopped early: The loss was not a finite number." in told
    bare = model_card(certificate(verdict=None, kept=[{**KEPT, "budget": None, "verdict": None}]), "", adapter=False)
    assert "no budget was set" in bare and yaml.safe_load(bare.split("---")[1])["library_name"] == "transformers"
