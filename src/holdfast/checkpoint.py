"""The one store: whole or not at all, safetensors and JSON only, and only complete checkpoints are ever chosen."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast._errors import BadCheckpoint, TrainingStopped

logger = logging.getLogger(__name__)

MANIFEST = "complete.json"
_TENSOR = "__tensor__"


def write_state(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    """Write a nested state as `name.json` and, for its tensors, `name.safetensors`."""
    tensors: dict[str, Tensor] = {}
    tree = _taken_apart(state, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf8")


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """Read what `write_state` wrote; raises BadCheckpoint when a file is missing or damaged."""
    try:
        tree = json.loads((folder / f"{name}.json").read_text(encoding="utf8"))
        tensors = load_file(folder / f"{name}.safetensors")
        state = _put_together(tree, tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadCheckpoint(f"{folder / name} cannot be read ({error}). Resume from an earlier checkpoint.") from error
    return dict(state)


@contextmanager
def kept_whole(
    staging: Path, folder: Path, *, first: bool = True, meet: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """What is written to `staging` meanwhile appears as `folder`, sealed and all at once, or not at all.

    With several processes all write, `meet` is their barrier, and the `first` one moves. Raises TrainingStopped when
    the disk is full; what stood there before is intact.
    """
    if first:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    meet()
    try:
        yield
        meet()
        if first:
            publish(staging, folder)
        meet()
    except Exception as error:
        shutil.rmtree(staging, ignore_errors=True)
        if _is_full(error):
            raise TrainingStopped(
                f"The disk is full: {folder} could not be saved, and nothing half-written was left. "
                "Earlier checkpoints are intact; free some space and resume."
            ) from error
        raise


def publish(staging: Path, folder: Path) -> None:
    """Seal a staged folder with a manifest of its files and move it to its place."""
    sizes = {str(f.relative_to(staging)): f.stat().st_size for f in sorted(staging.rglob("*")) if f.is_file()}
    for file in sizes:
        _sync(staging / file)
    (staging / MANIFEST).write_text(json.dumps({"files": sizes}, indent=1), encoding="utf8")
    _sync(staging / MANIFEST)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(staging, folder)
    _sync(folder.parent)


def check(folder: Path) -> None:
    """Raise BadCheckpoint, naming the file, unless every file of a sealed folder is there in full."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadCheckpoint(
            f"{folder} is not a complete checkpoint: it has no readable {MANIFEST}, which is written last."
        ) from None
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            raise BadCheckpoint(f"{folder} is not complete: {name} is missing.")
        if file.stat().st_size != size:
            raise BadCheckpoint(f"{folder} is damaged: {name} has {file.stat().st_size} bytes instead of {size}.")


def newest(run_folder: Path) -> Path | None:
    """The newest complete checkpoint of a run; incomplete ones are named in a warning and passed over."""
    for folder in reversed(checkpoints(run_folder)):
        try:
            check(folder)
            return folder
        except BadCheckpoint as error:
            logger.warning("%s It is passed over.", error)
    return None


def checkpoints(run_folder: Path) -> list[Path]:
    """The `checkpoint-N` folders of a run, by N."""
    numbered = [(int(m[1]), f) for f in run_folder.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", f.name))]
    return [folder for _, folder in sorted(numbered)]


def rotate(run_folder: Path, keep: int | None, protected: Path | None = None) -> None:
    """Delete the oldest checkpoints beyond `keep`; the newest complete one and `protected` always stay."""
    if not keep or keep < 1:
        return
    stay = {newest(run_folder), protected}
    for folder in checkpoints(run_folder)[:-keep]:
        if folder not in stay:
            shutil.rmtree(folder, ignore_errors=True)


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: key}
    if isinstance(value, Mapping):
        return {str(k): _taken_apart(v, tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_taken_apart(v, tensors) for v in value]
    return value


def _put_together(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if set(tree) == {_TENSOR}:
            return tensors[tree[_TENSOR]]
        return {k: _put_together(v, tensors) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_put_together(v, tensors) for v in tree]
    return tree


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_full(error: BaseException) -> bool:
    """Whether the disk was full; torch and safetensors wrap the system's error in their own, by its text."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error).lower()
    return "no space left" in text or "os error 28" in text or "file write failed" in text


