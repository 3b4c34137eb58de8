"""The cache on disk: read again what was written, make anew what is damaged, do without where it cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from holdfast.data.store import Store, cache_folder, tensors_digest, weights_digest
from tests.models import build

KEY = {"weights": "abc", "n": 3}
HELD = {"ids": torch.arange(6, dtype=torch.int32).reshape(2, 3), "given": torch.tensor([True, False])}
SHAPES = {"ids": (2, 3), "given": (2,)}


def only_file(folder: Path) -> Path:
    (path,) = (p for p in folder.rglob("*") if p.is_file())
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    Store("self", tmp_path).save(KEY, HELD)
    found = Store("self", tmp_path).load(KEY, SHAPES)
    assert found is not None
    assert all(torch.equal(found[name], HELD[name]) for name in HELD)
    assert Store("self", tmp_path).load({**KEY, "n": 4}, SHAPES) is None
    assert Store("other", tmp_path).load(KEY, SHAPES) is None
    assert only_file(tmp_path).suffix == ".safetensors"


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "text", "shape"])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store("self", tmp_path)
    store.save(KEY, HELD)
    path = only_file(tmp_path)
    content = path.read_bytes()
    ends = {"cut": content[:-3], "flipped": content[:-3] + b"\x07" + content[-2:], "emptied": b"", "text": b"hello"}
    path.write_bytes(ends.get(damage, content))
    assert store.load(KEY, {**SHAPES, "ids": (3, 3)} if damage == "shape" else SHAPES) is None
    assert "will be made anew" in caplog.text
    store.save(KEY, HELD)
    assert store.load(KEY, SHAPES) is not None


def test_a_folder_that_cannot_be_written_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    Store("self", tmp_path / "file").save(KEY, HELD)
    assert "cannot be written" in caplog.text


def test_no_folder_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    store = Store("self", False)
    store.save(KEY, HELD)
    assert store.load(KEY, SHAPES) is None
    assert not list(tmp_path.iterdir())


def test_the_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("HOLDFAST_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "holdfast"
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("HOLDFAST_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/holdfast").expanduser()


def test_digests_change_with_every_bit() -> None:
    model = build("llama")
    before = weights_digest(model)
    assert before == weights_digest(build("llama"))
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-6
    assert weights_digest(model) != before
    assert len({tensors_digest({"a": t}) for t in (torch.zeros(4), torch.zeros(2, 2), torch.zeros(4).int())}) == 3
    assert weights_digest(build("llama").bfloat16()) != before
