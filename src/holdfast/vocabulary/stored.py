"""New rows in a folder: tokens, boundary and rows, to be laid over the same base again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast import checkpoint, tiny
from holdfast._errors import BadInput
from holdfast.params.heads import unwrapped
from holdfast.params.weights import whole
from holdfast.vocabulary.rows import alone, embedding_of, is_tied, lay, sides

TOKENS, WEIGHTS = "vocabulary.json", "new_rows.safetensors"


def stand_beside(model: Any) -> bool:
    """Whether a model's new rows are written beside it: where it is an adapter, and where they alone trained."""
    return embedding_of(model) is not None and (isinstance(model, PeftModel) or alone(model))


def write_rows(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, first: bool = True) -> None:
    """Write a model's new rows, their tokens, where they begin, and the base that they belong to.

    Of several processes that hold parts of the rows all must ask, and the first one writes.
    """
    into = embedding_of(model)
    if into is None:
        raise BadInput("This model has no new rows to write.")
    tokens = tokenizer.convert_ids_to_tokens(list(range(into.boundary, into.boundary + into.count)))
    rows = told_rows(model)
    if not first:
        return
    name = str(cast(Any, unwrapped(model)).name_or_path)
    base = "tiny" if name == str(tiny.MODEL) else name
    told = {"base": base, "boundary": into.boundary, "rows": len(into.weight), "tied": is_tied(model), "tokens": tokens}
    folder.mkdir(parents=True, exist_ok=True)
    with checkpoint.file_kept_whole(folder / WEIGHTS) as file:
        save_file(rows, file)
    with checkpoint.file_kept_whole(folder / TOKENS) as file:
        file.write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def told_rows(model: Any) -> dict[str, torch.Tensor]:
    """The new rows by their side, `input` and, where it is not tied, `output`."""
    named = dict(zip(("input", "output"), sides(model), strict=True))
    kept = {"input": named["input"]} if is_tied(model) else named
    return {name: whole(side.new_rows).float().cpu().contiguous() for name, side in kept.items()}


def there(folder: Path) -> bool:
    """Whether a folder holds new rows."""
    return (folder / WEIGHTS).is_file()


def read_base(folder: Path) -> str:
    """The name of the base that the rows in a folder belong to; raises BadInput."""
    return str(_told(folder)["base"])


def lay_stored(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Lay the rows in a folder over a base; `tokenizer` is the one that was saved with them.

    Raises BadInput for damaged files, for another base (rows of another count or width, another kind of head), and for
    a tokenizer that gives the tokens other ids.
    """
    told = _told(folder)
    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"{folder} has a {TOKENS} but no {WEIGHTS}, which holds the rows.")
    try:
        rows = load_file(folder / WEIGHTS)
    except Exception as error:
        raise BadInput(f"{folder / WEIGHTS} cannot be read: {error}") from error
    into: Any = model.get_input_embeddings()
    if len(into.weight) != told["rows"] or is_tied(model) != told["tied"]:
        raise BadInput(
            f"The new rows in {folder} belong to another base: one of {told['rows']:,} rows, its head "
            f"{'tied' if told['tied'] else 'not tied'}; this one has {len(into.weight):,}."
        )
    ids = list(range(told["boundary"], told["boundary"] + len(told["tokens"])))
    if tokenizer.convert_tokens_to_ids(list(told["tokens"])) != ids or len(rows.get("input", ())) != len(ids):
        raise BadInput(f"Tokenizer, tokens and rows in {folder} do not fit each other. Take those of one run.")
    device = into.weight.device
    lay(model, told["boundary"], rows["input"].to(device), rows["output"].to(device) if "output" in rows else None)


def digest(folder: Path) -> bytes:
    """SHA-256 over tokens and rows in a folder."""
    files = (folder / TOKENS, folder / WEIGHTS)
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).digest()


def _told(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / TOKENS).read_text("utf-8"))
        kinds = {"base": str, "boundary": int, "rows": int, "tied": bool, "tokens": list}
        if not isinstance(told, dict) or not all(isinstance(told.get(key), kind) for key, kind in kinds.items()):
            raise ValueError(f"it needs {', '.join(kinds)}")
        if not all(isinstance(token, str) for token in told["tokens"]):
            raise ValueError("its tokens are not texts")
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / TOKENS} cannot be read: {error}") from error
    return told
