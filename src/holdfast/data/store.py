"""A cache of tensors on disk, by content: what was computed once from the same weights and settings is read again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

Folder = str | os.PathLike[str] | None | Literal[False]


def cache_folder() -> Path:
    """Where computed things are kept: `HOLDFAST_CACHE`, else `holdfast` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    named = os.environ.get("HOLDFAST_CACHE")
    platform = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "holdfast"
    return Path(named or platform).expanduser()


class Store:
    """Tensors by the SHA-256 of a key (plain values), one safetensors file each, in a room of the cache folder.

    Nothing here is needed: a damaged file is made anew, a folder that cannot be written is only warned about.
    `folder` None is `cache_folder()`, False keeps nothing.
    """

    def __init__(self, room: str, folder: Folder = None):
        self.folder = None if folder is False else Path(folder or cache_folder()) / room

    def load(self, key: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor] | None:
        """The tensors kept under `key`, if they are there, whole, and of these shapes."""
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                sound = (file.metadata() or {}).get("sha256") == tensors_digest(tensors)
        except (SafetensorError, OSError, ValueError) as error:
            logger.warning("The cached file %s is damaged and will be made anew (%s).", path, error)
            return None
        if not sound or {name: tuple(t.shape) for name, t in tensors.items()} != dict(shapes):
            logger.warning("The cached file %s is not what was written and will be made anew.", path)
            return None
        return tensors

    def save(self, key: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors; written to a temporary name and moved, so that no reader sees half a file."""
        path = self._path(key)
        if path is None:
            return
        held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as aside:
                written = Path(aside) / path.name
                save_file(held, written, {"sha256": tensors_digest(held), "key": json.dumps(key, sort_keys=True)})
                os.replace(written, path)
        except (OSError, SafetensorError) as error:
            logger.warning("The cache %s cannot be written (%s); going on without it.", path.parent, error)

    def _path(self, key: Mapping[str, Any]) -> Path | None:
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return None if self.folder is None else self.folder / f"{name}.safetensors"


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes of tensors, 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and saved buffers of a model, by name."""
    return tensors_digest(model.state_dict())
