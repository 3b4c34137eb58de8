"""Adapters and new rows in folders: how a base is loaded with them on it, as it was while they learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoConfig

from holdfast._errors import BadInput
from holdfast.adapters.head import classifier, labels_of
from holdfast.adapters.quantised import SETTINGS, read_settings
from holdfast.adapters.wrapping import aligned
from holdfast.base import Base, load_base, read_tokenizer
from holdfast.vocabulary import stored as new_rows

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def load_adapted(folder: str | Path, *, trainable: bool = False, **loading: Any) -> Base:
    """A base with what is in `folder` on it (an adapter, new rows of its vocabulary), as a run's `final/` holds it.

    Any other folder or name is a base.

    With `trainable` the adapter can go on learning; `loading` as for `load_base`. A base that was quantised while the
    adapter learnt is quantised again. The digest changes with the base and with the adapter.

    Raises BadInput where the adapter is not in safetensors (pickles are never opened) or does not name its base.
    """
    place = Path(folder)
    if not (place / CONFIG).is_file():
        return _with_rows(place, **loading) if new_rows.there(place) else load_base(folder, **loading)
    if not (place / WEIGHTS).is_file():
        raise BadInput(f"{place} has a {CONFIG} but no {WEIGHTS}. Save the adapter again with `model.save_pretrained`.")
    settings = json.loads((place / CONFIG).read_text("utf-8"))
    named = settings.get("base_model_name_or_path")
    if not named:
        raise BadInput(f"{place / CONFIG} does not say which base the adapter belongs to (base_model_name_or_path).")
    if (place / SETTINGS).is_file():
        loading = {"quantization": read_settings(place), **loading}
    base = _with_rows(place, **loading) if new_rows.there(place) else load_base(named, **loading)
    base = _with_tokens(base, settings, place)
    model = _with_head(base, place) if settings.get("task_type") == "SEQ_CLS" else base.model
    try:
        adapted: Any = aligned(PeftModel.from_pretrained(model, place, is_trainable=trainable))
    except (RuntimeError, ValueError, LookupError) as error:
        raise BadInput(f"The adapter in {place} does not fit its base {named}: {error}") from error
    for config in adapted.peft_config.values():  # PEFT looks there when it saves, and may ask the Hub for another name
        config.base_model_name_or_path = base.model.name_or_path
    parts = [base.digest.encode(), (place / CONFIG).read_bytes(), (place / WEIGHTS).read_bytes()]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return Base(adapted, base.tokenizer, str(folder), digest)


def _with_rows(place: Path, **loading: Any) -> Base:
    """The base that new rows belong to, with them and their tokenizer."""
    base, tokenizer = load_base(new_rows.read_base(place), **loading), read_tokenizer(place)
    new_rows.lay_stored(base.model, tokenizer, place)
    digest = hashlib.sha256(base.digest.encode() + new_rows.digest(place)).hexdigest()
    return Base(base.model, tokenizer, str(place), digest)


def _with_tokens(base: Base, settings: Mapping[str, Any], place: Path) -> Base:
    """The base with as many rows as an adapter that brings tokens needs, and with its tokenizer."""
    told = settings.get("token_indices") or settings.get("trainable_token_indices")
    lists = list(told.values()) if isinstance(told, Mapping) else [told]
    last = max((index for ids in lists if isinstance(ids, list) for index in ids), default=-1)
    if last < 0 or not (place / "tokenizer_config.json").is_file():
        return base
    module: Any = base.model
    if last >= len(module.get_input_embeddings().weight):
        module.resize_token_embeddings(last + 1, mean_resizing=False)
    return replace(base, tokenizer=read_tokenizer(place))


def _with_head(base: Base, place: Path) -> Any:
    """The base with a head for the labels that stand beside an adapter; its values are the adapter's."""
    if not (place / "config.json").is_file():
        raise BadInput(
            f"{place} is an adapter of a classifier, and no config.json beside it names the labels. Write the "
            "classifier's there: `model.get_base_model().config.save_pretrained(folder)`."
        )
    config = AutoConfig.from_pretrained(place)
    return classifier(base.model, labels_of(config), pad_id=config.get_text_config().pad_token_id or 0)
