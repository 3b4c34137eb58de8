"""Finding: files are known by their endings, datasets by their names, and what is doubtful is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.items.finding import datasets, find, holds_items


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


ORIGINAL = (
    "index/Toys.index.json",
    "index/Toys.item.json",
    "info/Toys_5_2016-10-2018-11.txt",
    "train/Toys_5_2016-10-2018-11.derived.csv",
    "valid/Toys_5_2016-10-2018-11.csv",
    "test/Toys_5_2016-10-2018-11.csv.gz",
)


def found(folder: Path, dataset: str | None = None) -> dict[str, str]:
    return {kind: str(path.relative_to(folder)) for kind, path in find(folder, dataset).files.items()}


def test_the_layout_of_the_original_is_found(tmp_path: Path) -> None:
    made(tmp_path, *ORIGINAL, "README.md", "notes.txt", "index/Toys.emb.npy", "train/.hidden.csv")
    assert find(tmp_path).dataset == "Toys"
    kinds = ("index", "item", "info", "train", "valid", "test")
    assert found(tmp_path) == dict(zip(kinds, ORIGINAL, strict=True))
    assert holds_items(tmp_path) and not holds_items(tmp_path / "train")


def test_all_may_lie_in_one_folder(tmp_path: Path) -> None:
    names = ("A.index.json.gz", "A.item.json", "A_5_2016-10-2018-11.txt", "A.train.csv", "A_valid.csv", "A-test.csv.gz")
    assert set(found(made(tmp_path, *names)).values()) == set(names)


def test_a_name_that_begins_like_another_is_not_taken_for_it(tmp_path: Path) -> None:
    made(tmp_path, *ORIGINAL, *(name.replace("Toys", "Toys_and_Games") for name in ORIGINAL))
    assert datasets(tmp_path) == ["Toys", "Toys_and_Games"]
    with pytest.raises(BadInput, match="several datasets: Toys, Toys_and_Games"):
        find(tmp_path)
    with pytest.raises(UnknownName, match=r"'Toy'. Did you mean 'Toys'"):
        find(tmp_path, "Toy")
    assert all("Toys_and_Games" not in name for name in found(tmp_path, "Toys").values())
    assert all("Toys_and_Games" in name for name in found(tmp_path, "Toys_and_Games").values())


def test_csv_goes_before_inter_and_inter_will_do(tmp_path: Path) -> None:
    made(tmp_path, "A.item.json", "A.train.inter", "A.valid.inter.gz", "train/A.csv")
    assert found(tmp_path) == {"item": "A.item.json", "train": "train/A.csv", "valid": "A.valid.inter.gz"}


def test_two_files_for_one_thing_are_not_chosen_from(tmp_path: Path) -> None:
    made(tmp_path, "A.item.json", "train/A.csv", "train/A.derived.csv")
    with pytest.raises(BadInput, match=r"both are the train file of one dataset. Keep one"):
        find(tmp_path)


def test_nothing_to_be_found_says_what_would_be(tmp_path: Path) -> None:
    made(tmp_path, "README.md", "other/data.csv")
    with pytest.raises(BadInput, match=r"holds no catalogue: there is no NAME\.index\.json"):
        find(tmp_path)
    with pytest.raises(BadInput, match="There is no folder"):
        find(tmp_path / "nowhere")
