"""The new tokens of a recipe: which they are, what their rows start as, and what the base did before it had them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import BadInput
from holdfast.adapters.rows import let_train
from holdfast.base import Base
from holdfast.evaluation.loss import sequence_losses
from holdfast.items.catalogue import Catalogue
from holdfast.params.select import path
from holdfast.recipe.catalogue import indexed, titles, vectors
from holdfast.recipe.schema import Recipe, Vocabulary
from holdfast.recipe.texts import Texts
from holdfast.rule import Rule, Within
from holdfast.strategies.scaled import Scaled
from holdfast.vocabulary.extend import Extension, extend
from holdfast.vocabulary.rows import ROWS, Extended, alone, as_before, embedding_of, new_rows, sides

logger = logging.getLogger(__name__)

NONE_NEW = (
    "freeze_llm: no new tokens were found, so all parameters are frozen and there is nothing to train. Likely causes: "
    "`vocabulary.items` names another index than was meant, `vocabulary.dataset` is not the dataset of that index, or "
    "the base knows these tokens already."
)


def extended(recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Extension | None:
    """Give model and tokenizer the new tokens of a recipe; None where it names none.

    Values are not needed, so a model can be planned. Raises BadInput for tokens and indices that cannot be used, and
    for a recipe that freezes all but new tokens where none is new.
    """
    wanted = recipe.vocabulary
    if wanted is None:
        _check_frozen(recipe, model)
        return None
    texts = titles(wanted, recipe.learn.data) if _asks(wanted, "text") else {}
    made = extend(
        model,
        tokenizer,
        tokens(wanted),
        initialise=wanted.initialise,
        texts=texts,
        vectors=vectors(wanted) if _asks(wanted, "codebook") else {},
        seed=recipe.seed,
    )
    _check_frozen(recipe, model)
    return made


def _check_frozen(recipe: Recipe, model: Any) -> None:
    if recipe.freeze_llm and not new_rows(model):
        logger.warning("No new tokens were added: all parameters are frozen.")
        raise BadInput(NONE_NEW)


def with_rows(recipe: Recipe, model: Any) -> Any:
    """What a method made of a model, its new rows trainable; raises BadInput where the method hides them."""
    if recipe.vocabulary is None:
        return model
    if new_rows(model) and not all(isinstance(side, Extended) for side in sides(model) if side is not None):
        raise BadInput(
            f"The method {recipe.method.name!r} puts weights of its own on embedding or head, where new rows lie. "
            "Choose other targets, such as `targets: mlp`."
        )
    return let_train(model)


BESIDE = 10.0
"""How many times faster new rows learn than the weights that a method trains: these know something already."""


def pace(recipe: Recipe, model: Any) -> list[Rule]:
    """The rule by which new rows learn at a rate of their own; none where they need none."""
    wanted = recipe.vocabulary
    if wanted is None or not new_rows(model):
        return []
    rate = (1.0 if alone(model) else BESIDE) if wanted.rate is None else wanted.rate
    return [] if rate == 1 else [Within(path(f"*.{ROWS}"), Scaled(rate))]


def told(recipe: Recipe, model: Any, added: Extension | None) -> list[str]:
    """What a run says about its new tokens and about what trains, in true numbers."""
    if added is None:
        return []
    lines = [f"Adding {added.added} new tokens to tokenizer"]
    if not recipe.freeze_llm:
        return lines
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    return [
        *lines,
        "Freezing LLM parameters, only training new token embeddings",
        f"Unfrozen {len(added.tokens)} new token embeddings (indices {added.boundary} to {added.last})",
        f"Trainable parameters (with grad-mask): {trained:,} / {whole:,} ({100 * trained / whole:.4f}%)",
    ]


def known_before(base: Base, texts: Texts) -> None:
    """Measure the guarded texts on the base as it was without new tokens: what they take from old ones counts too."""
    into = embedding_of(base.model)
    if into is None:
        return
    for name, text in texts.guarded.items():
        read = {i for probe in (text.control, text.audit) for row in probe.rows for i in row["input_ids"]}
        if new := [i for i in sorted(read) if i >= into.boundary]:
            token = base.tokenizer.convert_ids_to_tokens(new[0])
            raise BadInput(
                f"The new token {token!r} stands in {name}, which would be read otherwise than the base reads it. "
                "Choose tokens that no text holds, such as <a_1>."
            )
    with as_before(base.model):
        for name, text in texts.guarded.items():
            halves = {"control": text.control, "audit": text.audit}
            before = {
                part: text.before.get(part) or sequence_losses(base.model, probe.rows, pad_id=base.pad_id)
                for part, probe in halves.items()
            }
            texts.guarded[name] = replace(text, before=before)


def tokens(wanted: Vocabulary) -> list[str]:
    """The tokens that a recipe names: those of the index, level by level, then others."""
    index = indexed(wanted)
    found = Catalogue("", {}, index).vocabulary if index else []
    return [*found, *(token for token in wanted.tokens if token not in set(found))]


def _asks(wanted: Vocabulary, initialiser: str) -> bool:
    return initialiser in ({wanted.initialise} if isinstance(wanted.initialise, str) else wanted.initialise)
