"""Training on text: the run of a recipe that says what a configuration says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from holdfast._errors import BadInput, TrainingStopped, Unsupported
from holdfast.base import load_base
from holdfast.llm.backends.base import BaseLLM
from holdfast.llm.backends.huggingface import HuggingFaceLLM
from holdfast.llm.config import FrozenConfig
from holdfast.llm.rules import adaptive, rollback, start, strategy
from holdfast.recipe import load, run

Source = str | Path | Iterable[str] | Iterable[Mapping[str, Any]]
"""The name of a source as in a recipe, texts, or records (a `datasets.Dataset` is an iterable of those)."""

LOOKS, EVERY = 16, 50
"""How often a run of known length looks at its metric, and after how many steps any other one."""


def fitted(
    llm: BaseLLM,
    config: FrozenConfig,
    frozen: Sequence[str],
    texts: tuple[Source, Source | None],
    asked: Mapping[str, Any],
    folder: str | Path | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Carry out the recipe on a copy of the model: the values that come of it, by path, and the certificate.

    `texts` are those to learn and those to evaluate on; `asked` holds keep, length and train. Raises Unsupported for a
    model without tokenizer, and what a recipe raises.
    """
    if not isinstance(llm, HuggingFaceLLM):
        raise Unsupported("Only a model with a tokenizer learns from text: use the backend `huggingface` or `tiny`.")
    with TemporaryDirectory(prefix="holdfast-") as aside:
        base = Path(aside) / "base"
        with llm.lock.reading():
            llm.base.model.save_pretrained(base)
        llm.base.tokenizer.save_pretrained(base)
        sources = [_source(given, Path(aside) / f"{i}.jsonl") for i, given in enumerate(texts)]
        place = Path(folder or Path(aside) / "run")
        recipe = values(str(base), config, frozen, sources[0] or "", sources[1], asked)
        result = run(load({**recipe, "output": str(place)}))
        if result.certificate is None:
            raise TrainingStopped(f"Training was interrupted; nothing has changed. {place} holds how far it came.")
        final = load_base(place / "final").model
        return {name: p.detach() for name, p in final.named_parameters()}, dict(result.certificate)


def values(
    base: str, config: FrozenConfig, frozen: Sequence[str], learn: str, evaluate: str | None, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The recipe, save for its run folder."""
    steps = int(asked["train"].get("max_steps", -1))
    figure = {} if evaluate is None else {"source": evaluate, "every": max(1, steps // LOOKS) if steps > 0 else EVERY}
    rules = [("frozen", {"select": list(frozen)})] if frozen else []
    rules += [_with_source(entry, learn) for entry in strategy(config)]
    if evaluate is not None:
        rules.append(_with(rollback(config), figure))
    rules.append(_with(adaptive(config), figure))
    return {
        "base": base,
        "learn": {"data": learn, "length": asked["length"], **({"evaluation": evaluate} if evaluate else {})},
        "keep": dict(asked["keep"] or {"probe": "none"}),
        "train": {"learning_rate": start(config), **asked["train"]},
        "rules": [{name: arguments} for name, arguments in rules],
    }


def _with(entry: tuple[str, dict[str, Any]], more: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return entry[0], {**entry[1], **more}


def _with_source(entry: tuple[str, dict[str, Any]], learn: str) -> tuple[str, dict[str, Any]]:
    """Importance is measured on what is to be learnt."""
    return _with(entry, {"source": learn}) if entry[0] == "selective" else entry


def _source(given: Source | None, file: Path) -> str | None:
    """The name of a source; texts and records are written to a file first. Raises BadInput where there are none."""
    if given is None or isinstance(given, str | Path):
        return None if given is None else str(given)
    records = [{"text": item} if isinstance(item, str) else dict(item) for item in given]
    if not records:
        raise BadInput("There is no text to learn from, or to evaluate on: the list is empty.")
    file.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return str(file)
