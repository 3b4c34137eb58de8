"""What a recipe's task can be asked for: what a model cannot do is said before anything is read or trained."""

from __future__ import annotations

from typing import Any

from holdfast._errors import BadInput, Unsupported
from holdfast.data.probes import CHAT, SELF, SOUND
from holdfast.params.heads import speaker
from holdfast.recipe.schema import Recipe


def classifying(recipe: Recipe) -> bool:
    """Whether a recipe teaches to tell labels apart."""
    return recipe.learn.task == "classify"


def check_task(recipe: Recipe, model: Any, trained: Any) -> None:
    """Raise Unsupported or BadInput for what base and trained model cannot do; values are not needed.

    `trained` is the classifier where the recipe asks for one, else the base itself.
    """
    if classifying(recipe):
        _check_classifier(recipe, trained)
    elif getattr(model.config, "is_encoder_decoder", False):
        _check_pairs(recipe)
    elif type(model).__name__.endswith("ForMaskedLM"):
        raise Unsupported(
            "This base reads text from both sides and writes none, so it can be taught labels alone: `learn: {task: "
            "classify}`, with `keep: {probe: none}`."
        )


def check_trained(recipe: Recipe, model: Any) -> None:
    """Raise Unsupported for a method that puts virtual tokens before the text of a classifier."""
    prompts = any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())
    if classifying(recipe) and prompts:
        raise Unsupported(
            f"{recipe.method.name}: behind virtual tokens a classifier cannot tell where a text ends. Take another "
            "method, such as `lora`."
        )


def _check_classifier(recipe: Recipe, trained: Any) -> None:
    for name, given in _rules(recipe):
        if name == "distill" or (name == "replay" and given.get("layers") is None):
            hint = " Or give it `layers: everything`: old text then has a forward pass of its own." * (name == "replay")
            raise Unsupported(
                f"The rule {name!r} mixes text into batches of labelled rows, which have no labels for tokens. Keep "
                f"text by `ewc` or `l2sp`, and set a budget.{hint}"
            )
    if speaker(trained) is None and (recipe.keep.texts or recipe.evaluate.suites or recipe.evaluate.learnt):
        raise Unsupported(
            "This base predicts no text, so nothing of that can be kept or measured: write `keep: {probe: none}` "
            "without suites, and no suites under `evaluate`."
        )


def _check_pairs(recipe: Recipe) -> None:
    made_up = {SELF, SOUND, CHAT}
    asked = {str(name) for _, given in _rules(recipe) for name in _listed(given.get("source"))}
    if SELF in recipe.keep.texts or asked & made_up:
        raise BadInput(
            "An encoder-decoder writes nothing without a prompt, so there is no text that it makes up: write "
            "`keep: {probe: none}`, and name old pairs under `suites` and as sources of rules."
        )
    for name, given in _rules(recipe):
        if name == "distill" or (name == "replay" and given.get("labels") is False):
            raise Unsupported(
                f"The rule {name!r} compares tokens that the encoder reads, and this decoder writes others. Replay "
                "old pairs with their labels, or keep by `ewc` or `l2sp`."
            )


def _rules(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    return [(name, given) for entry in recipe.rules for name, given in entry.items()]


def _listed(source: Any) -> list[Any]:
    return source if isinstance(source, list) else [source]
