"""The files of a catalogue, found in a folder by their endings, whether it has subfolders or is flat."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from holdfast._errors import BadInput, UnknownName
from holdfast.items.catalogue import SPLITS

ENDINGS = {"index": ".index.json", "item": ".item.json"} | {f"{split}.inter": f".{split}.inter" for split in SPLITS}
"""Kinds of files whose ending says all; what stands before it is the dataset's name."""

_SPLIT_FOLDER = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}
_SPLIT_PART = re.compile(rf"[._-]({'|'.join(_SPLIT_FOLDER)})(?=[._-]|$)")
_DATES = re.compile(r"_\d+_\d{4}-\d{1,2}-\d{4}-\d{1,2}.*$")
"""What the original puts between a dataset's name and `.csv`: fewest interactions, first and last month."""


@dataclass(frozen=True)
class Found:
    """The files of one dataset: `index`, `item`, `info`, `train`, `valid`, `test`, each where there is one."""

    dataset: str
    files: dict[str, Path]


def datasets(folder: str | Path) -> list[str]:
    """The names of the datasets that a folder holds, sorted; raises BadInput where there is no such folder."""
    return sorted({name for _, name, _ in _files(Path(folder))})


def holds_items(folder: str | Path) -> bool:
    """Whether a folder is a catalogue of items: it, or a folder in it, has an index or items of their own."""
    ends = (ENDINGS["index"], ENDINGS["item"])
    paths = [p for pattern in ("*", "*/*") for p in Path(folder).expanduser().glob(pattern)]
    return any(_plain(path).endswith(ends) for path in paths)


def find(folder: str | Path, dataset: str | None = None) -> Found:
    """The files of a dataset, below `folder` or one folder deeper; the name is needed only where there are several.

    `index/NAME.index.json`, `index/NAME.item.json`, `info/NAME*.txt`, `train|valid|test/NAME*.csv` as the original
    lays them out, or all in one folder (then `train`, `valid` or `test` is part of a csv's name), and
    `NAME.train.inter` and so on; each also with `.gz`. Of a split that is there as csv and as `.inter`, the csv is
    taken. Raises BadInput for a missing or empty folder, several datasets, or two files for the same thing;
    UnknownName for a dataset that is not there.
    """
    files = list(_files(Path(folder)))
    names = sorted({name for _, name, _ in files})
    if not names:
        known = "NAME.index.json, NAME.item.json, info/NAME.txt, train/NAME.csv or NAME.train.inter"
        raise BadInput(f"{folder} holds no catalogue: there is no {known} in it or in its subfolders (each also .gz).")
    if dataset is None and len(names) > 1:
        raise BadInput(f"{folder} holds several datasets: {', '.join(names)}. Say which one is meant.")
    dataset = names[0] if dataset is None else dataset
    if dataset not in names:
        raise UnknownName(f"dataset in {folder} called", dataset, names)
    return Found(dataset, _single([(kind, path) for kind, name, path in files if name == dataset]))


def _files(folder: Path) -> Iterable[tuple[str, str, Path]]:
    """Kind, dataset and path of each file that belongs to a catalogue."""
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}. Name the folder that holds index/, info/ and the splits.")
    paths = sorted(p for pattern in ("*", "*/*") for p in folder.glob(pattern) if p.is_file() and p.name[0] != ".")
    ended = [(kind, _plain(path).removesuffix(end), path) for path in paths for kind, end in _ending(path)]
    names = {name for _, name, _ in ended}
    for path in paths:
        kind = _kind(path, folder)
        if kind:
            stem = _plain(path).rsplit(".", 1)[0]
            ended.append((kind, _owner(stem, names), path))
    return ended


def _ending(path: Path) -> list[tuple[str, str]]:
    return [(kind, end) for kind, end in ENDINGS.items() if _plain(path).endswith(end) and _plain(path) != end]


def _kind(path: Path, folder: Path) -> str:
    """What a csv or txt file is; empty where it is no part of a catalogue."""
    name = _plain(path)
    inside = path.parent.name.lower() if path.parent != folder else ""
    if name.endswith(".txt"):
        return "info" if inside == "info" or (not inside and _DATES.search(name)) or ".info." in name else ""
    if name.endswith(".csv"):
        part = _SPLIT_PART.search(name.removesuffix(".csv"))
        return _SPLIT_FOLDER.get(inside) or (_SPLIT_FOLDER[part[1]] if part else "")
    return ""


def _owner(stem: str, names: set[str]) -> str:
    """The dataset that a csv or txt file belongs to: the longest known name that it begins with, or one of its own."""
    cut = _SPLIT_PART.sub("", _DATES.sub("", stem)).removesuffix(".info").removesuffix(".derived")
    known = [name for name in names if cut == name or re.match(rf"{re.escape(name)}(\.|[_-]\d)", stem)]
    return max(known, key=len, default=cut)


def _single(files: list[tuple[str, Path]]) -> dict[str, Path]:
    """One file of each kind; a split's csv goes before its .inter."""
    found: dict[str, Path] = {}
    for kind, path in sorted(files, key=lambda pair: pair[0].endswith(".inter")):
        plain = kind.removesuffix(".inter")
        if plain in found and kind == plain:
            raise BadInput(f"{found[plain]} and {path} both are the {plain} file of one dataset. Keep one of them.")
        found.setdefault(plain, path)
    return found


def _plain(path: Path) -> str:
    """The file's name without `.gz`."""
    return path.name[:-3] if path.name.lower().endswith(".gz") else path.name
