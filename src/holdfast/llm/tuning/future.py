"""The guide's outlook: several experts on one base, and a search for what to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from holdfast._errors import MissingExtra
from holdfast.base import load_base
from holdfast.llm.tuning.mixture import AdapterMixture

try:
    from holdfast import search as searching
except MissingExtra as error:
    missing: MissingExtra | None = error
else:
    missing = None

if TYPE_CHECKING:
    from holdfast.search import Found

RECIPE = "shakespeare-lora"
"""What is searched around where nobody says."""


class FutureFineTuning:
    """What the guide calls the future."""

    @staticmethod
    def mixture_of_experts(
        base_model: PreTrainedModel | None = None,
        experts: int | Sequence[str | Path] = 4,
        *,
        rank: int = 4,
        top: int | None = None,
        seed: int = 0,
    ) -> AdapterMixture:
        """Several LoRA experts on one base (the embedded one unless given), weighted by a router for every token.

        `experts` are a number of new ones, or folders with adapters that were trained before; see `AdapterMixture`,
        also for errors. With `top` only so many experts speak at each token.
        """
        model = load_base("tiny").model if base_model is None else base_model
        return AdapterMixture(model, experts, rank=rank, top=top, seed=seed)

    @staticmethod
    def neural_architecture_search(
        recipe: str | Path | Mapping[str, Any] = RECIPE,
        overrides: Sequence[str] = (),
        *,
        trials: int = 20,
        minutes: float = 30.0,
        folder: str | Path | None = None,
        **settings: Any,
    ) -> Found:
        """Search for the method, places, sizes and strengths that learn most inside a recipe's budget.

        It is `holdfast.search.search`, which takes further `settings` and writes best.yaml; it ends after so many
        trials or minutes. Raises MissingExtra without Optuna, and as the search.
        """
        if missing is not None:
            raise missing
        return searching.search(recipe, overrides, trials=trials, minutes=minutes, folder=folder, **settings)
