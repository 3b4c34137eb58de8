"""IDs built from a folder and read back, grown by new items, and what is told about IDs and catalogues."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from holdfast._errors import BadInput, UnknownName
from holdfast.items.building import identify
from holdfast.items.catalogue import Catalogue
from holdfast.items.embedding import tfidf
from holdfast.items.index_files import read_ids
from holdfast.items.quality import quality
from holdfast.items.writing import write
from holdfast.recipe.identifying import build_ids, inspected, measured, numbered, texts_of
from holdfast.recipe.identifying_table import render_catalogue, render_ids
from tests.recipe.taught import shop

SETTINGS = {"levels": 3, "codes": 12, "fields": ["title"]}


def nameless(items: int = 336) -> Catalogue:
    """The first items of the shop, without IDs and without users."""
    whole = shop()
    return replace(whole, items={k: whole.items[k] for k in list(whole.items)[:items]}, tokens={}, splits={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(nameless(), tmp_path / "shop")
    return tmp_path / "shop"


def printed(thing: object) -> str:
    with (console := Console(width=200)).capture() as told:
        console.print(thing)
    return " ".join(told.get().split())


def test_ids_are_those_of_the_same_words_by_hand(folder: Path, tmp_path: Path) -> None:
    made = build_ids(folder, tmp_path / "ids", **SETTINGS)  # type: ignore[arg-type]
    texts = [item.title for item in nameless().items.values()]
    own = identify(list(nameless().items), tfidf(texts), {"residual": {"levels": 3, "codes": 12}})
    assert made.index == tmp_path / "ids" / "made-up.index.json"
    assert read_ids(made.index).tokens == own.tokens == made.ids.tokens
    assert made.ids.settings["fields"] == ["title"]
    assert "336 IDs: 336 of 3 tokens" in printed(render_ids(made))


def test_codes_that_gather_nothing_are_said(folder: Path, tmp_path: Path) -> None:
    alone = build_ids(folder, tmp_path / "many", codes=256, fields=["title"])
    assert "Take fewer codes, such as --codes 18." in printed(render_ids(alone))
    few = build_ids(folder, tmp_path / "few", **SETTINGS)  # type: ignore[arg-type]
    assert "fewer codes" not in printed(render_ids(few))


def test_fields_are_chosen_by_name() -> None:
    items = nameless(1)
    (text,) = texts_of(items, ["title", "brand", "categories", "description"])
    item = items.items["0"]
    told = [item.title, item.brand, " ".join(item.categories), " ".join(item.description)]
    assert text.split("\n") == told
    with pytest.raises(UnknownName, match="field of items called 'size'"):
        texts_of(items, ["size"])
    with pytest.raises(BadInput, match="At least one field"):
        texts_of(items, [])


@pytest.mark.parametrize("embedding", ["tfidf", "vectors.npy"])
def test_new_items_join_and_old_ones_keep_their_ids(tmp_path: Path, embedding: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(336, 8)).astype(np.float32)
    if embedding != "tfidf":
        np.save(tmp_path / "first.npy", vectors[:300])
        np.save(tmp_path / "all.npy", vectors)
    sources = (None, None) if embedding == "tfidf" else (str(tmp_path / "first.npy"), str(tmp_path / "all.npy"))
    write(nameless(300), tmp_path / "less")
    write(nameless(), tmp_path / "more")
    old = build_ids(tmp_path / "less", tmp_path / "old", embedding=sources[0], **SETTINGS)  # type: ignore[arg-type]
    assert old.index is not None
    new = build_ids(tmp_path / "more", tmp_path / "new", embedding=sources[1], old=old.index)
    assert {item: new.ids.tokens[item] for item in old.ids.items} == old.ids.tokens
    assert len({*new.ids.tokens.values()}) == 336
    assert new.notes == ("36 new items, 300 as before",)
    assert new.ids.settings["fields"] == ["title"]
    with pytest.raises(BadInput, match="nothing to grow"):
        build_ids(tmp_path / "less", tmp_path / "again", embedding=sources[0], old=old.index)
    assert new.index is not None
    with pytest.raises(BadInput, match="36 items of the old index are not in the catalogue"):
        build_ids(tmp_path / "less", tmp_path / "again", embedding=sources[0], old=new.index)


def test_no_index_takes_anothers_place(folder: Path, tmp_path: Path) -> None:
    build_ids(folder, tmp_path / "ids", **SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"made-up.index.json has an index already.*--grow"):
        build_ids(folder, tmp_path / "ids", **SETTINGS)  # type: ignore[arg-type]
    write(shop(), tmp_path / "named")
    for output in (tmp_path / "named", tmp_path / "named" / "ids"):
        with pytest.raises(BadInput, match="has an index already"):
            build_ids(tmp_path / "named", output, **SETTINGS)  # type: ignore[arg-type]


def test_what_cannot_be_built_is_refused_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Take more codes"):
        build_ids(folder, tmp_path / "ids", levels=2, codes=4)
    with pytest.raises(UnknownName, match="quantiser"):
        build_ids(folder, tmp_path / "ids", quantiser="kmeans")
    np.save(tmp_path / "few.npy", np.ones((3, 2), dtype=np.float32))
    with pytest.raises(BadInput, match="3 rows for 336 items"):
        build_ids(folder, tmp_path / "ids", embedding=str(tmp_path / "few.npy"))
    assert not (tmp_path / "ids").exists()


def test_an_index_is_shown_with_what_was_measured_when_it_was_made(folder: Path, tmp_path: Path) -> None:
    made = build_ids(folder, tmp_path / "ids", **SETTINGS)  # type: ignore[arg-type]
    for place in (tmp_path / "ids", tmp_path / "ids" / "made-up.index.json"):
        found = inspected(place)
        assert measured(found) == json.loads(json.dumps(dict(made.ids.report)))
        assert found.catalogue is None


def test_a_catalogue_is_shown_with_its_bad_rows(tmp_path: Path) -> None:
    items = shop()
    write(items, tmp_path)
    with (tmp_path / "train" / "made-up.csv").open("a") as rows:
        rows.write('u1,"[\'x\']",y,"[999]",3,"[\'<a_0>\']",<a_0>\n')
    found = inspected(tmp_path)
    assert found.catalogue is not None and len(found.catalogue.faults) == 1
    told = printed(render_catalogue(found.catalogue))
    known = {row.target for row in items.split("train")} | {i for row in items.split("train") for i in row.history}
    cold = sum(row.target not in known for row in items.split("test"))
    assert f"{len(items.split('test')):,}" in told and f"{cold} ({100 * cold / len(items.split('test')):.1f} %)" in told
    assert "1 rows cannot be used" in told and "no item '999'" in told
    shown = printed(render_ids(found))
    assert "<a_0><b_0><c_0> 0" in shown and "no two items share an ID" in shown


def test_tokens_of_any_form_are_counted_alike() -> None:
    tokens = {"1": ("<x>", "<why_1>"), "2": ("<x>",), "3": ("<z>", "<why_1>"), "4": ("<z>", "<why_1>")}
    ids = numbered(tokens)
    assert ids.codes.tolist() == [[0, 0], [0, -1], [1, 0], [1, 0]]
    report = quality(ids)
    assert [level.used for level in report.levels] == [2, 1]
    assert (report.after.items, report.after.groups) == (2, 1)


def test_a_folder_with_neither_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no catalogue"):
        inspected(tmp_path)
    with pytest.raises(BadInput, match="There is no index"):
        inspected(tmp_path / "nothing.index.json")
