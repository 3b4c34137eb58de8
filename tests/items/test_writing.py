"""Writing: what is written is read back the same, whatever the words; what a format cannot hold is refused before."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput, UnknownName
from holdfast.items.catalogue import SPLITS, Catalogue, Interaction, Item
from holdfast.items.reading import load
from holdfast.items.writing import csv_text, index_text, info_text, write
from tests.items.shop import INDUSTRIAL, industrial, published, shop

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TITLE = TEXT.filter(str.strip)
ITEM = st.builds(Item, st.just(""), TITLE, st.lists(TEXT, max_size=2).map(tuple), TEXT, st.lists(TEXT).map(tuple))


def same(read: Catalogue, given: Catalogue) -> bool:
    return (read.items, read.tokens, dict(read.splits)) == (given.items, given.tokens, dict(given.splits))


@pytest.mark.parametrize("identifiers", [True, False])
def test_a_catalogue_is_read_back_as_it_was(tmp_path: Path, identifiers: bool) -> None:
    files = write(shop(identifiers), tmp_path)
    assert len(files) == (6 if identifiers else 4)
    read = load(tmp_path)
    assert same(read, shop(identifiers))
    assert read.notes == read.faults == ()
    assert [row.line for row in read.split("train")] == [2, 3, 4]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("identifiers", [True, False])
def test_it_may_lie_flat_packed_or_as_inter(tmp_path: Path, identifiers: bool) -> None:
    plain = replace(shop(identifiers), splits={k: v for k, v in shop().splits.items() if k != "valid"})
    for file in write(plain, tmp_path / "deep"):
        split = file.parent.name if file.parent.name in SPLITS else ""
        name = f"{file.stem}.{split}{file.suffix}" if split else file.name.replace("shop.txt", "shop.info.txt")
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    write(plain, tmp_path / "inter", rows="inter")
    assert same(load(tmp_path / "flat"), plain)
    assert same(load(tmp_path / "inter"), plain)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ITEM, min_size=1, max_size=4), st.data())
def test_any_words_are_read_back(tmp_path: Path, items: list[Item], data: st.DataObject) -> None:
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    known = {str(i): replace(item, id=str(i)) for i, item in enumerate(items)}
    ids = st.sampled_from(sorted(known))
    rows = data.draw(st.lists(st.tuples(st.lists(ids, min_size=1), ids), min_size=1, max_size=3))
    made = Catalogue("any", known, {}, {"test": tuple(Interaction("u", tuple(h), t) for h, t in rows)})
    write(made, tmp_path / "any")
    read = load(tmp_path / "any")
    assert [(i.title, i.brand) for i in read.items.values()] == [(i.title, i.brand) for i in known.values()]
    assert read.splits == made.splits and not read.notes


@published
def test_the_published_files_are_written_byte_for_byte() -> None:
    found = industrial()
    index = next((INDUSTRIAL / "index").glob("*.index.json"))
    info = next((INDUSTRIAL / "info").glob("*.txt"))
    test = next((INDUSTRIAL / "test").glob("*.csv"))
    assert index_text(found) == index.read_text("utf-8")
    assert info_text(found) == info.read_text("utf-8")
    assert csv_text(found, found.split("test")) == test.read_text("utf-8")


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"name": "a/b"}, "cannot be the name of files"),
        ({"name": ""}, "cannot be the name of files"),
        ({"items": {"a\nb": Item("a\nb", "x")}, "tokens": {}, "splits": {}}, "cannot be written"),
        ({"items": {" a": Item(" a", "x")}, "tokens": {}, "splits": {}}, "cannot be written"),
        ({"splits": {"test": (Interaction("", ("1",), "2"),)}}, "cannot be written"),
        ({"splits": {"test": (Interaction("\ud800", ("1",), "2"),)}}, "UTF-8"),
    ],
)
def test_what_would_not_be_read_back_is_refused_before_anything_is_written(
    tmp_path: Path, spoilt: dict[str, object], why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        write(replace(shop(), **spoilt), tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_inter_has_no_room_for_preferences_nor_for_blanks(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no room for preferences"):
        write(shop(), tmp_path, rows="inter")
    blank = replace(shop(), splits={"test": (Interaction("a b", ("1",), "2"),)})
    with pytest.raises(BadInput, match="'a b' cannot be written"):
        write(blank, tmp_path, rows="inter")
    with pytest.raises(UnknownName, match="format of interactions"):
        write(shop(), tmp_path, rows="parquet")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
