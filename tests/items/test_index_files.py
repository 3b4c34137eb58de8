"""IDs as files: what is written is read again, and what cannot be read says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast._errors import BadInput, UnknownName
from holdfast.items.building import grow, identify
from holdfast.items.identifiers import SemanticIDs
from holdfast.items.index_files import read_ids, write_ids
from tests.items.vectors import families, names

RQVAE = {"rqvae": {"levels": 2, "codes": 8, "hidden": [16], "latent": 4, "steps": 10, "batch": 64}}


@pytest.mark.parametrize("quantiser", [{"residual": {"levels": 2, "codes": 8}}, RQVAE])
@pytest.mark.parametrize("shared", ["move", "suffix"])
def test_what_is_written_is_read_again(tmp_path: Path, quantiser: dict[str, Any], shared: Any) -> None:
    x = families(50)
    ids = identify(["z", *names(39)], x[:40], quantiser, shared=shared)
    file = write_ids(ids, tmp_path / "new", "Small")
    again = read_ids(file)
    assert sorted(f.name for f in file.parent.iterdir()) == [
        "Small.codes.json",
        "Small.codes.safetensors",
        "Small.index.json",
    ]
    assert again.items == ids.items and torch.equal(again.codes, ids.codes) and again.ordinal == ids.ordinal
    assert all(torch.equal(a, b) for a, b in zip(again.codebooks, ids.codebooks, strict=True))
    assert again.networks.keys() == ids.networks.keys()
    assert (again.settings, again.report) == (ids.settings, json.loads(json.dumps(ids.report)))
    assert torch.equal(grow(again, ["n"], x[40:41]).codes, grow(ids, ["n"], x[40:41]).codes)


def test_the_index_has_the_form_that_others_read(tmp_path: Path) -> None:
    ids = SemanticIDs(("0", "10", "2"), torch.tensor([[236, 231, 226], [42, 80, 160], [42, 194, 177]]))
    file = write_ids(ids, tmp_path, "Industrial")
    assert file.read_text().strip() == (
        '{"0": ["<a_236>", "<b_231>", "<c_226>"], "10": ["<a_42>", "<b_80>", "<c_160>"], '
        '"2": ["<a_42>", "<b_194>", "<c_177>"]}'
    )
    again = read_ids(file)
    assert again.items == ("0", "10", "2") and not again.codebooks


def test_bare_ids_leave_no_codebooks_of_others_beside_them(tmp_path: Path) -> None:
    ids = identify(names(9), families(9), {"residual": {"levels": 1, "codes": 9}})
    file = write_ids(ids, tmp_path, "x")
    write_ids(SemanticIDs(ids.items, ids.codes.flip(0)), tmp_path, "x")
    assert [f.name for f in tmp_path.iterdir()] == [file.name] and not read_ids(file).codebooks


def written(folder: Path, content: object) -> Path:
    file = folder / "x.index.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as an index"),
        ("\udcff", "cannot be read as an index"),
        ([1, 2], "is no index of IDs"),
        ({}, "is no index of IDs"),
        ([[1, 2]], "is no index of IDs"),
        ("3", "is no index of IDs"),
        ({"0": "<a_1>"}, "item '0' has '<a_1>'"),
        ({"0": []}, "is no index of IDs"),
        ({"0": ["<a_1>", 2]}, "is no index of IDs"),
        ({"0": {"<a_1>": 1}}, "is no index of IDs"),
        ('{"0": ["<a_1>"], "0": ["<a_2>"]}', "names '0' twice"),
        ({"0": ["<a_1>"], "1": ["<b_1>"]}, r"item '1': '<b_1>' stands where a token like <a_12> should"),
        ({"0": ["<a_1>"], "1": ["<a_1>", "<b_2>"]}, r"IDs of 1 and 2 tokens, item '1' for one. Say `ragged=True`"),
        ({"0": ["<a_1>"], "1": ["<a_1>"], "2": ["<a_1>"]}, r"3 items share 1 IDs, up to 3 one ID \(items 0, 1, 2\)"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "x.index.json"
    if content == "\udcff":
        file.write_bytes(b"\xff\xfe{")
    else:
        written(tmp_path, content)
    with pytest.raises(BadInput, match=message):
        read_ids(file)


def test_a_missing_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no index"):
        read_ids(tmp_path / "none.index.json")


def test_ids_of_several_lengths_and_shared_ids_are_read_when_told_so(tmp_path: Path) -> None:
    file = written(tmp_path, {"0": ["<a_1>", "<b_2>"], "1": ["<a_1>", "<b_2>", "<c_0>"], "2": ["<a_1>", "<b_2>"]})
    ids = read_ids(file, ragged=True, duplicates="allow")
    assert ids.codes.tolist() == [[1, 2, -1], [1, 2, 0], [1, 2, -1]]
    with pytest.raises(BadInput, match="2 items share 1 IDs"):
        read_ids(file, ragged=True)
    with pytest.raises(UnknownName, match="'ignore'"):
        read_ids(file, duplicates="ignore")  # type: ignore[arg-type]


def test_codebooks_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    ids = identify(names(9), families(9), {"residual": {"levels": 1, "codes": 9}})
    file = write_ids(ids, tmp_path, "x")
    index = json.loads(file.read_text())
    written(tmp_path, {**index, "0": index["1"], "1": index["0"]})
    with pytest.raises(BadInput, match="were not written together"):
        read_ids(file)
    (tmp_path / "x.codes.json").write_text("[]")
    with pytest.raises(BadInput, match="Build the IDs again"):
        read_ids(file)
    (tmp_path / "x.codes.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="Build the IDs again"):
        read_ids(file)
