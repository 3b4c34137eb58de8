"""Semantic IDs as files: the plain index that others read, and beside it what they were made with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast._errors import BadInput, UnknownName
from holdfast.checkpoint import file_kept_whole
from holdfast.evaluation.plain import finite
from holdfast.items.collisions import collisions
from holdfast.items.identifiers import ENDED, SemanticIDs, parsed
from holdfast.vocabulary.index import read_index

INDEX, TENSORS, ABOUT = ".index.json", ".codes.safetensors", ".codes.json"


def write_ids(ids: SemanticIDs, folder: str | Path, name: str) -> Path:
    """Write `NAME.index.json` ({"0": ["<a_236>", ...], ...} in the order of the items), and return where it is.

    Where there are codebooks, `NAME.codes.safetensors` (codes, codebooks, networks) and `NAME.codes.json` (settings,
    report) are written beside it, the index last, each whole or not at all.
    """
    index, tensors, about = _files(Path(folder), name)
    if ids.codebooks:
        held = {"codes": ids.codes} | {f"codebook.{i}": book for i, book in enumerate(ids.codebooks)}
        with file_kept_whole(tensors) as half:
            save_file({key: value.contiguous().clone() for key, value in (held | dict(ids.networks)).items()}, half)
        plain = {"ordinal": ids.ordinal, "settings": dict(ids.settings), "report": dict(ids.report)}
        _write(plain, about, 1)
    else:
        tensors.unlink(missing_ok=True)
        about.unlink(missing_ok=True)
    _write({item: list(tokens) for item, tokens in ids.tokens.items()}, index, None)
    return index


def read_ids(file: str | Path, *, ragged: bool = False, duplicates: Literal["error", "allow"] = "error") -> SemanticIDs:
    """Read an `.index.json`, and the codebooks that lie beside it if there are some.

    Args:
        ragged: take IDs of several lengths; the codes of the shorter ones end with -1.
        duplicates: "allow" takes IDs that several items share; `adopt` parts them.

    Raises:
        BadInput: no such file, or one that is not JSON, no mapping of items to lists of tokens like <a_12>, names an
            item twice, has IDs of several lengths or of several items, or does not go with the codebooks beside it.
    """
    if duplicates not in ("error", "allow"):
        raise UnknownName("way to take duplicate IDs called", duplicates, ("error", "allow"))
    path = Path(file)
    index = read_index(path)
    codes = _codes(path, index, ragged)
    if duplicates == "error":
        _refuse_shared(path, tuple(index), codes)
    if not path.name.endswith(INDEX):
        return SemanticIDs(tuple(index), codes)
    _, tensors, about = _files(path.parent, path.name.removesuffix(INDEX))
    return _whole(path, tuple(index), codes, tensors, about) if tensors.exists() else SemanticIDs(tuple(index), codes)


def _files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    return folder / f"{name}{INDEX}", folder / f"{name}{TENSORS}", folder / f"{name}{ABOUT}"


def _write(value: Any, file: Path, indent: int | None) -> None:
    with file_kept_whole(file) as half:
        half.write_text(json.dumps(finite(value), indent=indent, ensure_ascii=False) + "\n", "utf-8")


def _codes(path: Path, index: Mapping[str, Sequence[str]], ragged: bool) -> Tensor:
    rows = []
    for item, tokens in index.items():
        try:
            rows.append(parsed(tokens))
        except ValueError as error:
            raise BadInput(f"{path}, item {item!r}: {error}.") from error
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1 and not ragged:
        odd = next(item for item, tokens in index.items() if len(tokens) != lengths[0])
        raise BadInput(
            f"{path} has IDs of {' and '.join(map(str, lengths))} tokens, item {odd!r} for one. "
            "Say `ragged=True` to take them as they are."
        )
    return torch.tensor([row + [ENDED] * (lengths[-1] - len(row)) for row in rows])


def _refuse_shared(path: Path, items: Sequence[str], codes: Tensor) -> None:
    shared = collisions(codes)
    if not shared.items:
        return
    _, group, counts = torch.unique(codes, dim=0, return_inverse=True, return_counts=True)
    few = (counts > 1).nonzero()[:3, 0].tolist()
    told = "; ".join(", ".join(items[i] for i in (group == one).nonzero()[:5, 0].tolist()) for one in few)
    raise BadInput(
        f"{path}: {shared.items} items share {shared.groups} IDs, up to {shared.largest} one ID (items {told}"
        f'{" and others" if shared.groups > 3 else ""}). Say `duplicates="allow"` to take them as they are, and '
        "`adopt(ids, embeddings)` after that to part them."
    )


def _whole(path: Path, items: tuple[str, ...], codes: Tensor, tensors: Path, about: Path) -> SemanticIDs:
    try:
        held, plain = load_file(tensors), json.loads(about.read_text("utf-8"))
        own, ordinal = held.pop("codes"), bool(plain["ordinal"])
        books = tuple(held.pop(f"codebook.{i}") for i in range(own.shape[1]))
        ids = SemanticIDs(items, codes, books, held, ordinal, plain["settings"], plain["report"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
        raise BadInput(
            f"{tensors.name} and {about.name} beside {path} cannot be read ({error}). Build the IDs again, or take "
            "both files away to use the index without codebooks."
        ) from error
    if not torch.equal(own, codes):
        raise BadInput(
            f"{path} and {tensors.name} were not written together: their codes differ. Build the IDs again, or take "
            f"{tensors.name} and {about.name} away to use the index without codebooks."
        )
    return ids
