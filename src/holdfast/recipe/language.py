"""What a model that learnt items still knows of language: its certificate's texts, and the old tokens by themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput
from holdfast.evaluation.old_tokens import beside, old_rows
from holdfast.recipe.model import opened
from holdfast.recipe.recommender import Recommender
from holdfast.recipe.texts import Texts
from holdfast.recipe.vocabulary import extended

CERTIFICATE = "certificate.json"


def retention(recommender: Recommender, say: Callable[[str], None] = lambda line: None) -> dict[str, Any] | None:
    """Language kept: by the run's certificate, and measured here over old tokens alone; None where no recipe says how.

    `texts` has an entry for each kept text: `certificate` (what it says: rise in nats per token, ratio of perplexities,
    bounds; probability that went to new tokens counts as a rise), and `old_tokens`, the rise over the tokens that
    the base had, the largest change of one of their logits, the probability that new tokens get (`new_mass`), and the
    share of places where one is the likeliest (`overtaken`). `old_row` is the largest change in their rows. All by the
    audit rows of the run, which steered nothing.
    """
    if recommender.recipe is None:
        return None
    recipe = recommender.recipe
    say("loading the base")
    base = opened(recipe)
    added = extended(recipe, base.model, base.tokenizer)
    boundary = len(base.tokenizer) if added is None else added.boundary
    texts = Texts(recipe, base)
    certified = _certified(recommender.folder)
    entries = []
    for name, text in texts.guarded.items():
        say(f"measuring what is kept of {name}")
        tuned, rows = recommender.base.model.to(base.model.device), text.audit.rows  # type: ignore[arg-type]
        found = beside(base.model, tuned, rows, boundary, pad_id=base.pad_id)
        rise = {"rise": found.rise.mean, "low": found.rise.low, "high": found.rise.high, "n": found.rise.n}
        old = {**rise, "logit": found.logit, "new_mass": found.mass, "overtaken": found.overtaken}
        entries.append({"text": name, "certificate": certified.get(name), "old_tokens": old})
    return {
        "old_tokens": boundary,
        "old_row": old_rows(base.model, recommender.base.model, boundary),
        "texts": entries,
    }


def _certified(folder: Path | None) -> Mapping[str, Any]:
    """The entries of a certificate's kept texts; none where there is no certificate."""
    file = None if folder is None else folder / CERTIFICATE
    if file is None or not file.is_file():
        return {}
    try:
        return {entry["text"]: entry for entry in json.loads(file.read_text("utf-8"))["kept"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is no certificate that can be read ({error}). Put the run's own back.") from error
