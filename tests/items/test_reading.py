"""Reading: every way in which a catalogue's files can be bad is said with file and line, or left out and told."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.items.catalogue import Catalogue
from holdfast.items.reading import load
from holdfast.items.writing import write
from tests.items.shop import industrial, published, shop


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(shop(), tmp_path)
    return tmp_path


def spoil(file: Path, change: Any) -> None:
    """Change what a JSON file holds, in place."""
    value = json.loads(file.read_text("utf-8"))
    change(value)
    file.write_text(json.dumps(value, indent=1), encoding="utf-8")


@pytest.mark.slow
@published
def test_the_published_catalogue_is_read_whole() -> None:
    found = industrial()
    assert (len(found.items), len(found.tokens)) == (3686, 3686)
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 10393, "valid": 4532, "test": 4533}
    assert found.faults == found.notes == ()
    assert found.items["0"].brand == "Sealed Unit Parts Co., Inc."
    assert len(found.items["1"].description) == 2


def test_without_an_index_there_are_titles_and_histories(folder: Path) -> None:
    for file in ("index/shop.index.json", "info/shop.txt"):
        (folder / file).unlink()
    found = load(folder)
    assert found.tokens == {} and found.items == shop().items
    assert found.splits == shop().splits


def test_an_info_file_alone_gives_titles_and_tokens(folder: Path) -> None:
    for file in ("index/shop.index.json", "index/shop.item.json"):
        (folder / file).unlink()
    found = load(folder)
    assert found.tokens == shop().tokens
    assert [found.title(i) for i in found.items] == [shop().title(i) for i in shop().items]


def test_without_titles_nothing_can_be_done(folder: Path) -> None:
    for file in ("info/shop.txt", "index/shop.item.json"):
        (folder / file).unlink()
    with pytest.raises(BadInput, match=r"neither shop\.item\.json nor an info file"):
        load(folder)


def test_an_index_may_stand_under_the_name_of_its_dataset(folder: Path) -> None:
    file = folder / "index/shop.index.json"
    given = json.loads(file.read_text())
    file.write_text(json.dumps({"shops": {}, "shop": given}))
    assert load(folder).tokens == shop().tokens
    file.write_text(json.dumps({"shops": given, "other": {}}))
    with pytest.raises(UnknownName, match=r"dataset in .*shop\.index\.json called 'shop'. Did you mean 'shops'"):
        load(folder)


def test_ids_built_anew_go_before_those_that_csv_and_info_repeat(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(folder / "index/shop.index.json", lambda index: index.update({"1": ["<a_7>", "<b_7>"]}))
    with caplog.at_level(logging.WARNING):
        found = load(folder)
    assert found.sid("1") == "<a_7><b_7>" and found.splits == shop().splits and not found.faults
    assert [note.line for note in found.notes if note.file.endswith("txt")] == [1]
    assert [note.line for note in found.notes if "/train/" in note.file] == [2, 3, 4]
    assert "sid of item '1' is '<a_1><b_1><c_1>' here and '<a_7><b_7>' in the catalogue" in str(found.notes[1])
    assert "goes before" in caplog.text and "(7 in all)" in caplog.text


def test_titles_of_the_items_go_before_those_of_a_csv(folder: Path) -> None:
    spoil(folder / "index/shop.item.json", lambda items: items["3"].update({"title": "huge hat"}))
    found = load(folder)
    assert found.title("3") == "huge hat"
    assert any("the title of item '3' is 'big hat' here and 'huge hat'" in note.why for note in found.notes)


def reported(folder: Path, *lines: int) -> Catalogue:
    """An error by default; with `on_bad` the same faults, and the rest is read."""
    with pytest.raises(BadInput, match=rf"line {lines[0]}: .*on_bad='report'"):
        load(folder)
    found = load(folder, on_bad="report")
    assert [fault.line for fault in found.faults] == list(lines)
    return found


def test_an_item_without_title_is_left_out_with_all_its_rows(folder: Path) -> None:
    spoil(folder / "index/shop.item.json", lambda items: items["4"].update({"title": "  "}))
    (folder / "info/shop.txt").unlink()
    file = folder / "index/shop.item.json"
    line = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if '"4"' in text)
    index = folder / "index/shop.index.json"
    spoil(index, lambda value: None)
    below = next(i for i, text in enumerate(index.read_text().splitlines(), 1) if '"4"' in text)
    found = reported(folder, line, below, 2)
    assert "item '4' has no title" in found.faults[0].why
    assert "catalogue has no item '4'" in found.faults[2].why
    assert list(found.items) == ["1", "2", "3", "5", "6"]
    assert found.splits["valid"] == () and found.splits["test"] == shop().splits["test"]


def test_an_index_without_items_of_the_csv_is_told(folder: Path) -> None:
    spoil(folder / "index/shop.index.json", lambda index: index.pop("6"))
    (folder / "info/shop.txt").unlink()
    found = reported(folder, 1, 2)
    assert "item '6' has no semantic ID in it" in found.faults[0].why
    assert "index has no semantic ID for item '6'" in found.faults[1].why


@pytest.mark.parametrize("tokens", [[], "<a_1>", ["a"], [1], {"a": 1}, None])
def test_tokens_that_are_none_are_told(folder: Path, tokens: object) -> None:
    spoil(folder / "index/shop.index.json", lambda index: index.update({"6": tokens}))
    (folder / "info/shop.txt").unlink()
    assert "semantic ID of item '6' cannot be used" in load(folder, on_bad="report").faults[0].why


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("<a_1>\ttitle", "it has 2 cells"),
        ("<a_1>\t\t7", "item '7' has no title"),
        ("<a_1>\tcup\t1", "item '1' stands there twice"),
        ("a_1\tcup\t7", "'a_1' is no semantic ID"),
    ],
)
def test_bad_lines_of_an_info_file_are_told(folder: Path, line: str, why: str) -> None:
    with (folder / "info/shop.txt").open("a", encoding="utf-8") as handle:
        handle.write(line + "\n")
    assert why in reported(folder, 7).faults[0].why


@pytest.mark.parametrize("kind", ["index", "item"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"[]", "holds a list"),
        (b'{"1": [}', "line 1: this is not JSON"),
        (b'{"1": {"title": "a"}, "1": {"title": "b"}}', "the key '1' stands twice"),
        (b"[" * 100_000, "cannot be read|not JSON"),
        ('{"1": {"title": "Ä"}}'.encode("latin-1"), "is not UTF-8"),
        (b"{}", "for none of the 6 items|No item of shop"),
    ],
)
def test_files_that_cannot_be_read_at_all_say_why(folder: Path, kind: str, content: bytes, why: str) -> None:
    (folder / f"index/shop.{kind}.json").write_bytes(content)
    (folder / "info/shop.txt").unlink()
    for on_bad in ("error", "report"):
        with pytest.raises(BadInput, match=why):
            load(folder, on_bad=on_bad)  # type: ignore[arg-type]


def test_a_description_with_code_is_only_a_text(folder: Path) -> None:
    canary = folder / "canary"
    code = f"[open({str(canary)!r}, 'w')]"
    spoil(folder / "index/shop.item.json", lambda items: items["1"].update({"description": code, "categories": code}))
    assert load(folder).items["1"].description == (code,)
    assert not canary.exists()


def test_categories_come_as_a_list_or_with_commas(folder: Path) -> None:
    spoil(folder / "index/shop.item.json", lambda items: items["1"].update({"categories": "Home, Garden,Cups"}))
    spoil(folder / "index/shop.item.json", lambda items: items["2"].update({"categories": ["Home, Garden", "Plates"]}))
    found = load(folder)
    assert found.items["1"].categories == ("Home", "Garden", "Cups")
    assert found.items["2"].categories == ("Home, Garden", "Plates")


def test_what_to_do_with_bad_rows_is_one_of_two_words(folder: Path) -> None:
    with pytest.raises(UnknownName, match="'ignore'"):
        load(folder, on_bad="ignore")  # type: ignore[arg-type]
