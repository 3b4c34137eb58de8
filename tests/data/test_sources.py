"""Sources: embedded texts, folders with splits, `datasets` on disk, repositories, and what is nowhere."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from holdfast._errors import BadInput, UnknownName
from holdfast.data.formats import Completion, Text, read

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def lines(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_embedded_texts_have_splits() -> None:
    train, held_out = read("tiny/shakespeare"), read("tiny/shakespeare", split="evaluation")
    assert all(isinstance(record, Text) and record.text for record in train + held_out)
    assert train != held_out
    assert read("tiny/stories") == read("tiny/stories", split="evaluation")
    with pytest.raises(UnknownName, match="tiny/stories"):
        read("tiny/storys")


def test_a_folder_is_read_by_split(tmp_path: Path) -> None:
    lines(tmp_path / "a.train.jsonl", "1")
    lines(tmp_path / "b-train.jsonl", "2")
    lines(tmp_path / "a.valid.jsonl", "3")
    lines(tmp_path / "meta.json", "no part of any split")
    (tmp_path / "LICENSE.txt").write_text("Mind the terms.")
    assert read(tmp_path) == [Text("1"), Text("2")]
    assert read(tmp_path, split="validation") == [Text("3")]
    with pytest.raises(BadInput, match=r"no file for the split 'test': a.train.jsonl"):
        read(tmp_path, split="test")


def test_a_folder_without_splits_is_read_whole(tmp_path: Path) -> None:
    for name, text in [("b.txt", "two"), ("a.txt", "one"), ("README.md", "about"), (".hidden.txt", "no")]:
        (tmp_path / name).write_text(text)
    assert read(tmp_path) == read(tmp_path, split="test") == [Text("one"), Text("two")]


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    data = Dataset.from_list([{"prompt": "?", "answer": "yes"}])
    data.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "many"))
    assert read(tmp_path / "one") == read(tmp_path / "many", split="test") == [Completion("?", " yes")]
    with pytest.raises(UnknownName, match="train"):
        read(tmp_path / "many", split="tain")


def test_a_cloned_repository_goes_through_load_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "clone" / "data").mkdir(parents=True)
    Dataset.from_list([{"text": "a"}]).to_parquet(str(tmp_path / "clone" / "data" / "train-00000-of-00001.parquet"))
    assert read(tmp_path / "clone") == [Text("a")]
    with pytest.raises(BadInput, match=r"split 'test'.*Unknown split"):
        read(tmp_path / "clone", split="test")


def test_records_may_be_handed_over() -> None:
    assert read([{"text": "a"}]) == read(Dataset.from_list([{"text": "a"}])) == [Text("a")]
    with pytest.raises(BadInput, match="Record 1 handed over is a str"):
        read(["a"])  # type: ignore[list-item]
    with pytest.raises(BadInput, match="is empty"):
        read([])


@pytest.mark.parametrize("name", ["nowhere.jsonl", "./nowhere", "nowhere/data.csv.gz"])
def test_a_missing_file_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(BadInput, match="There is no file or folder"):
        read(name)


def test_an_unreachable_id_is_a_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # Offline by the library's own switch: what it raises then is what it raises without a network, only at once.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        BadInput, match=r"'owner/nothing' is no file or folder here.*Check the spelling and the network"
    ):
        read("owner/nothing")


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no data file"):
        read(tmp_path)


@pytest.mark.skipif(not DATA.exists(), reason="the shared data lie beside the project only where it is developed")
@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("tasks/snips", Completion, 13778),
        ("tasks/babi/qa1_single_supporting_fact.test.jsonl.gz", Completion, 1000),
        ("tasks/gsm8k", Completion, 7473),
        ("tasks/zh_cmrc2018", Completion, 3219),
        ("corpus/stories_simple.valid.jsonl.gz", Text, 95),
    ],
)
def test_real_data_are_read(name: str, kind: type, count: int) -> None:
    found = read(DATA / name)
    assert len(found) == count
    assert {type(record) for record in found} == {kind}


def test_a_gzipped_file_of_a_split_counts(tmp_path: Path) -> None:
    (tmp_path / "x.test.jsonl.gz").write_bytes(gzip.compress(b'{"text": "t"}'))
    lines(tmp_path / "x.train.jsonl", "1")
    assert read(tmp_path, split="evaluation") == [Text("t")]
