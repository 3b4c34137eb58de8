"""The one store: whole or not at all, safetensors and JSON only, and only complete checkpoints are ever chosen."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# How torch and safetensors say that the disk is full: they wrap the system's error in their own, as text.
_FULL = ("no space left", "os error 28", "disk quota exceeded", "os error 122", "file write failed", "unexpected pos")


def write_state(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    """Write a nested state as `name.json` and, for its tensors, `name.safetensors`.

    A state is made of mappings (keys become strings), sequences (become lists), tensors, and what JSON knows.
    """
    tensors: dict[str, Tensor] = {}
    tree = _taken_apart(state, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf8")


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """Read what `write_state` wrote, on the CPU; raises BadCheckpoint when a file is missing or damaged."""
    try:
        tree = json.loads((folder / f"{name}.json").read_text(encoding="utf8"))
        state = _put_together(tree, load_file(folder / f"{name}.safetensors"))
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
    try:
        if first:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        meet()
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


@contextmanager
def file_kept_whole(file: Path) -> Iterator[Path]:
    """What is written to the yielded path appears as `file` when all is written, or not at all.

    Raises TrainingStopped when the disk is full; what stood there before is intact.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield half
        _sync(half)
        os.replace(half, file)
        _sync(file.parent)
    except Exception as error:
        if _is_full(error):
            raise TrainingStopped(
                f"The disk is full: {file} could not be saved, and nothing half-written was left. "
                "Free some space and go on from what was saved before."
            ) from error
        raise
    finally:
        half.unlink(missing_ok=True)


def publish(staging: Path, folder: Path) -> None:
    """Seal a staged folder with a manifest of its files and move it to its place.

    What stood there goes only afterwards: at any moment one of the two is whole, under a name that `newest` knows.
    """
    sizes = {str(f.relative_to(staging)): f.stat().st_size for f in sorted(staging.rglob("*")) if f.is_file()}
    for file in sizes:
        _sync(staging / file)
    (staging / MANIFEST).write_text(json.dumps({"files": sizes}, indent=1), encoding="utf8")
    _sync(staging / MANIFEST)
    _sync(staging)
    former = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        shutil.rmtree(former, ignore_errors=True)
        os.replace(folder, former)
    os.replace(staging, folder)
    _sync(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def check(folder: Path, needs: Sequence[str] = ()) -> None:
    """Raise BadCheckpoint, naming the file, unless every file of a sealed folder is there in full.

    `needs` are beginnings of file names; at least one file has to begin with each.
    """
    try:
        sizes = dict(json.loads((folder / MANIFEST).read_text(encoding="utf8"))["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadCheckpoint(
            f"{folder} is not a complete checkpoint: it has no readable {MANIFEST}, which is written last."
        ) from None
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            raise BadCheckpoint(f"{folder} is not complete: {name} is missing.")
        if file.stat().st_size != size:
            raise BadCheckpoint(f"{folder} is damaged: {name} has {file.stat().st_size} bytes instead of {size}.")
    for need in needs:
        if not any(name.startswith(need) for name in sizes):
            raise BadCheckpoint(f"{folder} cannot be resumed from: it was saved without {need}.")


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
    """The `checkpoint-N` folders of a run, by N; one that was just being replaced comes before its successor."""
    found = [(re.fullmatch(r"checkpoint-(\d+)(\.old)?", f.name), f) for f in run_folder.glob("checkpoint-*")]
    return [folder for *_, folder in sorted((int(m[1]), m[2] is None, folder) for m, folder in found if m)]


def rotate(run_folder: Path, keep: int | None, protected: Path | None = None) -> None:
    """Delete the oldest checkpoints beyond `keep`; the newest complete one and `protected` always stay."""
    if not keep or keep < 1:
        return
    present = checkpoints(run_folder)
    stay = {f.resolve() for f in (newest(run_folder), protected) if f is not None}
    spare = [folder for folder in present if folder.resolve() not in stay]
    for folder in spare[: max(len(present) - keep, 0)]:
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


def _is_full(error: BaseException | None) -> bool:
    """Whether the disk was full, in the error itself or in one that it came from."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error).lower()
    return any(words in text for words in _FULL) or _is_full(error.__cause__ or error.__context__)
