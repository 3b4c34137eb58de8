"""Where records come from: an embedded text, a file, a folder, a data set on disk, or a `datasets` id."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput, UnknownName
from holdfast.data.files import READERS, Raw, kind, records
from holdfast.tiny import TEXTS

Source = str | os.PathLike[str] | Iterable[Mapping[str, Any]]

SPLITS = ({"train", "training"}, {"valid", "validation", "val", "dev"}, {"test", "evaluation", "eval"})
"""Names of splits; those in one set mean the same."""

NOTICES = ("license", "licence", "notice", "readme", "copying", "copyright", "changelog")
"""Files of a folder that are about the data, not of it."""


def raw(source: Source, split: str) -> Iterator[Raw]:
    """The records of a source as they stand there; see `holdfast.data.formats.read`."""
    if not isinstance(source, str | os.PathLike):
        return _given(source)
    name = os.fspath(source)
    path = Path(TEXTS.get(name, name)).expanduser()
    if path.is_dir():
        return _folder(path, split)
    if path.is_file():
        return records(path)
    if name.startswith("tiny/"):
        raise UnknownName("embedded text", name, TEXTS)
    if not isinstance(source, str) or name.startswith((".", "/", "~")) or kind(path) in READERS:
        raise BadInput(f"There is no file or folder {name}. Check the path; it is taken from {Path.cwd()}.")
    return _hub(name, split)


def _given(source: Iterable[Mapping[str, Any]]) -> Iterator[Raw]:
    for number, fields in enumerate(source, start=1):
        if not isinstance(fields, Mapping):
            raise BadInput(f"Record {number} handed over is a {type(fields).__name__}, not a mapping of fields.")
        yield Raw("the records handed over", number, fields)


def _folder(path: Path, split: str) -> Iterator[Raw]:
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return _saved(path, split)
    files = [p for p in sorted(path.iterdir()) if p.is_file() and kind(p) in READERS]
    files = [p for p in files if not p.name.lower().startswith(NOTICES) and not p.name.startswith(".")]
    if files:
        return (record for file in _of_split(path, files, split) for record in records(file))
    if any(p.is_dir() for p in path.iterdir()):
        return _hub(str(path), split)  # a clone of a repository on the Hub, its files in folders of their own
    raise BadInput(f"The folder {path} holds no data file. Known are {', '.join(READERS)}, each also .gz.")


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The files whose names say the split; all files where no name says any."""
    words = {file: set(re.split(r"[._-]", file.name.lower())) for file in files}
    if not any(words[file] & set().union(*SPLITS) for file in files):
        return files
    same = next((group for group in SPLITS if split in group), {split})
    chosen = [f for f in files if split in words[f]] or [f for f in files if words[f] & same]
    if not chosen:
        raise BadInput(f"The folder {folder} has no file for the split {split!r}: {', '.join(f.name for f in files)}.")
    return chosen


def _saved(path: Path, split: str) -> Iterator[Raw]:
    from datasets import DatasetDict, load_from_disk

    data = load_from_disk(str(path))
    if isinstance(data, DatasetDict):
        if split not in data:
            raise UnknownName(f"split of {path} called", split, map(str, data))
        data = data[split]
    return (Raw(str(path), number, fields) for number, fields in enumerate(data, start=1))


def _hub(source: str, split: str) -> Iterator[Raw]:
    """`owner/name`, or `owner/name:configuration`."""
    from datasets import load_dataset

    name, _, configuration = source.partition(":")
    try:
        data = load_dataset(name, configuration or None, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"{source!r} is no file or folder here, and as the id of a data set (split {split!r}) it cannot be loaded: "
            f"{why} Check the spelling and the network, or give a local file."
        ) from error
    return (Raw(source, number, fields) for number, fields in enumerate(data, start=1))
