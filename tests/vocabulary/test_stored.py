"""New rows on disk: written whole, read back to the same logits, refused over another base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from holdfast._errors import BadInput
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.vocabulary import extend, new_rows, write_rows

TOKENS = ["<a_0>", "<a_1>", "<b_0>"]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    base = load_base("tiny")
    extend(base.model, base.tokenizer, TOKENS, seed=2)
    folder = tmp_path / "rows"
    write_rows(base.model, base.tokenizer, folder)
    base.tokenizer.save_pretrained(folder)
    return base, folder


def test_what_was_written_is_read_back(saved: tuple[Any, Path]) -> None:
    base, folder = saved
    again = load_adapted(folder)
    ids = torch.tensor([base.tokenizer("Once <a_1><b_0>")["input_ids"]])
    assert torch.equal(again.model(input_ids=ids).logits, base.model(input_ids=ids).logits)
    assert again.tokenizer.convert_tokens_to_ids(TOKENS) == [512, 513, 514]
    assert set(load_file(folder / "new_rows.safetensors")) == {"input"}
    told = json.loads((folder / "vocabulary.json").read_text())
    assert told == {"base": "tiny", "boundary": 512, "rows": 512, "tied": True, "tokens": TOKENS}
    assert again.digest != base.digest and again.digest == load_adapted(folder).digest


def test_rows_that_were_read_grow(saved: tuple[Any, Path]) -> None:
    _, folder = saved
    again = load_adapted(folder)
    made = extend(again.model, again.tokenizer, ["<a_1>", "<c_0>"])
    assert made.tokens == (*TOKENS, "<c_0>") and made.added == 1
    (rows,) = new_rows(again.model).values()
    assert torch.equal(rows[:3], load_file(folder / "new_rows.safetensors")["input"])


def test_damaged_and_foreign_rows_are_refused(saved: tuple[Any, Path]) -> None:
    _, folder = saved
    told = json.loads((folder / "vocabulary.json").read_text())

    def with_told(**changed: Any) -> None:
        (folder / "vocabulary.json").write_text(json.dumps({**told, **changed}))

    with_told(rows=600)
    with pytest.raises(BadInput, match="belong to another base: one of 600 rows"):
        load_adapted(folder)
    with_told(tokens=["<a_1>", "<a_0>", "<b_0>"])
    with pytest.raises(BadInput, match="do not fit each other"):
        load_adapted(folder)
    with_told(tokens=["<a_0>", 1, ["x"]])
    with pytest.raises(BadInput, match="not texts"):
        load_adapted(folder)
    with_told(boundary="512")
    with pytest.raises(BadInput, match="it needs base, boundary"):
        load_adapted(folder)
    with_told()
    (folder / "new_rows.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(BadInput, match="cannot be read"):
        load_adapted(folder)


def test_only_a_model_with_new_rows_has_some_to_write(tmp_path: Path) -> None:
    base = load_base("tiny")
    with pytest.raises(BadInput, match="no new rows"):
        write_rows(base.model, base.tokenizer, tmp_path)
