"""A model written so that anybody can load it: merged, as an adapter, or both; loaded again before it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from holdfast import checkpoint
from holdfast._errors import BadInput, ExportRefused, UnknownName
from holdfast.adapters.quantised import write_settings
from holdfast.adapters.stored import load_adapted
from holdfast.base import Base
from holdfast.evaluation.plain import write_json
from holdfast.export.card import card
from holdfast.export.merging import MergeCheck, check_mergeable, merge
from holdfast.export.probe import Difference, difference, logits_of, probe_rows
from holdfast.export.tokens import as_peft
from holdfast.recipe.comparing import model_folder
from holdfast.recipe.origin import CERTIFICATE, RECIPE, Origin, origin
from holdfast.recipe.outcome import versions
from holdfast.vocabulary.rows import embedding_of

Form = Literal["merged", "adapter", "both"]
PARTS: dict[str, tuple[str, ...]] = {"merged": ("merged",), "adapter": ("adapter",), "both": ("adapter", "merged")}
"""What each form is made of."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXPORT = "export.json"
SAME = 1e-5
"""Largest difference of a logit between what was written and what was loaded again, as a share of their spread."""


@dataclass(frozen=True)
class Part:
    """A folder that was written: `kind` is merged or adapter, `reloaded` how far the model in it, loaded again, lies
    from the one in memory, and `digest` names its config and weights as `load_base` does."""

    kind: str
    folder: Path
    reloaded: Difference
    digest: str


@dataclass(frozen=True)
class Exported:
    """What was exported, from which model, and what merging and writing changed; `merge` is None for an adapter."""

    folder: Path
    model: str
    digest: str
    dtype: str
    parts: tuple[Part, ...]
    merge: MergeCheck | None
    forced: bool
    versions: Mapping[str, str]

    def told(self) -> dict[str, Any]:
        """The figures as plain values, as export.json holds them."""
        checked = (
            None if self.merge is None else {**asdict(self.merge), "dtype": self.dtype, "passed": self.merge.passed}
        )
        parts = {part.kind: {"digest": part.digest, "reloaded": asdict(part.reloaded)} for part in self.parts}
        source = {"model": self.model, "digest": self.digest, "dtype": self.dtype, "forced": self.forced}
        return {**source, "merge": checked, "parts": parts, "versions": dict(self.versions)}


def export(
    model: str | Path,
    folder: str | Path,
    *,
    form: Form = "merged",
    dtype: str | None = None,
    tolerance: float | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write a model to a new `folder` in Hugging Face's layout, with tokenizer, chat template, card and evidence.

    `model` is a run's folder (then its last model), a checkpoint, an adapter, a plain model or a Hub id. The form
    `merged` is a plain model in `dtype` (float32 unless told: what a certificate is measured on), `adapter` PEFT's
    files as they were trained, `both` each in a folder of its own. Beside them stand README.md, export.json with the
    figures of the checks, and certificate.json and recipe.yaml where the model comes from a run. `tolerance` and
    `force` as for `merge`. What was written is loaded again and compared before the folder
    appears, whole or not at all.

    Raises BadInput for a folder that is not empty and for an adapter where there is none, Unsupported for an adapter
    that cannot be merged, ExportRefused where the model would not answer as before.
    """
    folder = Path(folder)
    _check(folder, form, dtype, tolerance)
    place, source = model_folder(model), origin(model)
    say(f"loading {place}")
    loaded = _with_own_tokenizer(load_adapted(place), place)
    _check_adapter(loaded.model, form, model)
    made = Exported(folder, str(model), loaded.digest, dtype or "float32", (), None, force, versions())
    staging = folder.with_name(f".{folder.name}.export")
    with checkpoint.kept_whole(staging, folder):
        made = _write(loaded, made, form, tolerance, staging, say)
        for part in made.parts:
            _describe(made, part, source, _below(staging, form, part.kind))
    return made


def _check(folder: Path, form: str, dtype: str | None, tolerance: float | None) -> None:
    if form not in PARTS:
        raise UnknownName("form of export", form, PARTS)
    if dtype is not None and dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    if dtype is not None and form == "adapter":
        raise BadInput("An adapter is written as it was trained; `dtype` is for merged models. Leave it away.")
    if tolerance is not None and not tolerance >= 0:
        raise BadInput(f"tolerance is a largest difference of logits, 0 or above, not {tolerance}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is already there and not empty. Choose another folder, or take that one away.")


def _check_adapter(model: Any, form: Form, name: str | Path) -> None:
    if form != "merged" and not isinstance(model, PeftModel) and embedding_of(model) is None:
        raise BadInput(f'{name} has no adapter; it is a model as a whole. Export it by `--merge` (form="merged").')
    if form != "adapter":
        check_mergeable(model)


def _with_own_tokenizer(loaded: Base, place: str | Path) -> Base:
    """An adapter is saved with the tokenizer that it was trained with, which may know more than its base's."""
    model: Any = loaded.model
    if not isinstance(model, PeftModel) or not (Path(place) / "tokenizer_config.json").is_file():
        return loaded
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    return replace(loaded, tokenizer=tokenizer)


def _write(
    loaded: Base, made: Exported, form: Form, tolerance: float | None, staging: Path, say: Callable[[str], None]
) -> Exported:
    """Write the parts to the staging folder and load each again."""
    rows, parts, check = probe_rows(loaded), list[Part](), None
    model: Any = loaded.model
    for kind in PARTS[form]:
        there = _below(staging, form, kind)
        if kind == "merged":
            say("merging" if isinstance(model, PeftModel) else "writing")
            model, check = merge(model, rows, dtype=DTYPES[made.dtype], tolerance=tolerance, force=made.forced)
        asked = logits_of(model, rows)
        if kind == "adapter" and embedding_of(model) is not None:
            _save(as_peft(model), loaded.tokenizer, there, save_embedding_layers=False)
        else:
            _save(model, loaded.tokenizer, there)
        say("loading it again")
        again = _loaded_again(there, kind, made, model.device)
        found = _compared(asked, again, there, kind, rows, loaded.tokenizer)
        parts.append(replace(found, folder=_below(made.folder, form, kind)))
    return replace(made, parts=tuple(parts), merge=check)


def _below(folder: Path, form: Form, kind: str) -> Path:
    return folder / kind if form == "both" else folder


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, there: Path, **more: Any) -> None:
    there.mkdir(exist_ok=True)
    model.save_pretrained(str(there), **more)
    if isinstance(model, PeftModel):
        write_settings(model, there)
    tokenizer.save_pretrained(str(there))


def _loaded_again(there: Path, kind: str, made: Exported, device: torch.device) -> Base:
    """The part as anybody will load it, where the model in memory is: elsewhere it would compute otherwise."""
    if kind == "adapter":
        return load_adapted(there)
    again = load_adapted(there, dtype=DTYPES[made.dtype])
    module: Any = again.model
    module.to(device)
    return again


def _compared(
    asked: Tensor, again: Base, there: Path, kind: str, rows: list[list[int]], tokenizer: PreTrainedTokenizerBase
) -> Part:
    """The part, as far as it is the model that was in memory; raises ExportRefused where it is not."""
    found = difference(asked, logits_of(again.model, rows))
    read: Any = AutoTokenizer.from_pretrained(there)
    same = read.get_vocab() == tokenizer.get_vocab() and read.chat_template == tokenizer.chat_template
    if not found.relative <= SAME or not same:
        what = f"a logit moved by {found.largest:.3g}" if same else "its tokenizer reads otherwise"
        raise ExportRefused(f"What was written is not the model that was in memory ({what}). Nothing was kept.")
    return Part(kind, there, found, again.digest)


def _describe(made: Exported, part: Part, source: Origin, there: Path) -> None:
    """Card and evidence beside the weights."""
    (there / "README.md").write_text(card(made.told(), source, adapter=part.kind == "adapter"), encoding="utf-8")
    write_json(made.told(), there / EXPORT)
    if source.certificate is not None:
        write_json(source.certificate, there / CERTIFICATE)
    if source.recipe is not None:
        (there / RECIPE).write_text(source.recipe, encoding="utf-8")
