"""Files of every kind give the same records, and a bad file says what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as arrow
import pytest
from pyarrow import parquet

from holdfast._errors import BadInput, BadRecord
from holdfast.data.files import READERS, records

RECORDS = [{"prompt": "Läuft, „so“\nschon", "completion": "ja"}, {"prompt": "二", "completion": 'a "b", c'}]


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"data{suffix}"
    if suffix == ".parquet":
        parquet.write_table(arrow.Table.from_pylist(RECORDS), path)
    elif suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as handle:
            table = csv.DictWriter(handle, ["prompt", "completion"], delimiter="," if suffix == ".csv" else "\t")
            table.writeheader()
            table.writerows(RECORDS)
    elif suffix == ".json":
        path.write_text(json.dumps(RECORDS, indent=2), encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
def test_every_kind_gives_the_same_records(tmp_path: Path, suffix: str, packed: bool) -> None:
    path = written(tmp_path, suffix)
    if packed:
        (tmp_path / f"data{suffix}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / f"data{suffix}.gz"
    assert [dict(record.fields) for record in records(path)] == RECORDS


@pytest.mark.parametrize("suffix", [".txt", ".md", ".txt.gz"])
def test_a_text_file_is_one_document_or_several_with_marks(tmp_path: Path, suffix: str) -> None:
    text = "One.\n\nStill one.\n<|endoftext|>\nTwo.\n\f\nThree.\n<|endoftext|>\n"
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    assert [(r.line, r.fields["text"]) for r in records(path)] == [
        (1, "One.\n\nStill one."),
        (4, "Two."),
        (6, "Three."),
    ]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffHello".encode())
    assert next(records(tmp_path / "a.txt")).fields["text"] == "Hello"


def test_json_records_keep_their_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n {"text": "a"},\n\n {"text":\n  "b"}\n]')
    assert [r.line for r in records(tmp_path / "a.json")] == [2, 4]
    (tmp_path / "b.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert [(r.line, r.fields["text"]) for r in records(tmp_path / "b.json")] == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("name", "content", "line", "why"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": \n', 3, "not JSON"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', 2, "a record is an object"),
        ("a.json", '[{"text": "a"},\n {"text" "b"}]', 2, "not JSON"),
        ("a.json", '[{"text": "a"}\n {"text": "b"}]', 2, "a comma"),
        ("a.json", '[{"text": "a"},\n 7]', 2, "a record is an object"),
        ("a.json", '[{"text": "a"}', 1, "the closing ]"),
        ("a.csv", "prompt,completion\na,b\nc,d,e\n", 3, "more fields"),
        ("a.csv", "prompt,completion\na\n", 2, "fewer fields"),
        ("a.csv", 'prompt,completion\na,"b"c\n', 2, "expected"),
    ],
)
def test_a_malformed_record_is_named_by_file_and_line(
    tmp_path: Path, name: str, content: str, line: int, why: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(BadRecord, match=why) as error:
        list(records(path))
    assert str(error.value).startswith(f"{path}, line {line}: ")


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 500)[:-20])
    (tmp_path / "no.jsonl.gz").write_bytes(b"not gzip at all")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    (tmp_path / "a.docx").write_bytes(b"")
    for name, why in [
        ("latin.txt", "is not UTF-8 .*iconv"),
        ("cut.jsonl.gz", "not a complete gzip file"),
        ("no.jsonl.gz", "not a complete gzip file"),
        ("a.parquet", "not a readable parquet file"),
        ("a.docx", "no suffix that says how to read it"),
        ("missing.txt", "cannot be read: No such file"),
    ]:
        with pytest.raises(BadInput, match=why):
            list(records(tmp_path / name))


def test_all_readers_are_covered() -> None:
    assert set(READERS) == {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md"}
