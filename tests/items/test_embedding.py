"""Texts as vectors: against scikit-learn's parts, and against a text embedded alone."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from holdfast._errors import BadInput, MissingExtra
from holdfast.base import Base, load_base
from holdfast.items.embedding import embed, mean_pooled, read_embeddings, tfidf, write_embeddings
from tests.models import build

TEXTS = [
    "steel screw M4, box of 100",
    "steel screw M5, box of 50",
    "brass wood screw",
    "nitrile gloves, blue",
    "latex gloves, white, powder free",
    "blue safety gloves",
]


def test_texts_that_share_words_are_near() -> None:
    found = tfidf(TEXTS, dim=5)
    assert found.shape == (6, 5) and found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))
    near = found @ found.T
    assert near[0, 1] > near[0, 3] and near[3, 5] > near[3, 2]


def test_inner_products_are_those_of_the_best_approximation() -> None:
    """Eckart and Young: the first singular directions of the weighed counts, found by numpy."""
    weighed = TfidfVectorizer(sublinear_tf=True).fit_transform(TEXTS).toarray()
    left, values, _ = np.linalg.svd(weighed)
    best = left[:, :3] * values[:3]
    best /= np.linalg.norm(best, axis=1, keepdims=True)
    found = tfidf(TEXTS, dim=3).numpy()
    np.testing.assert_allclose(found @ found.T, best @ best.T, atol=1e-5)


def test_the_seed_decides_and_no_other_random_state_is_touched() -> None:
    np.random.seed(1)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    assert torch.equal(tfidf(TEXTS, dim=4, seed=3), tfidf(TEXTS, dim=4, seed=3))
    assert (np.random.get_state()[1] == state).all()


def test_fewer_dimensions_where_there_are_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert embed(TEXTS).shape == (6, 6)
    assert "give 6 dimensions, not 256" in caplog.text


def test_a_text_without_words_is_a_row_of_zeros() -> None:
    assert not tfidf([*TEXTS, ""], dim=3)[-1].any()


@pytest.mark.parametrize("texts", [[], ["", "!"]])
def test_texts_without_any_word_are_refused(texts: list[str]) -> None:
    with pytest.raises(BadInput, match=r"texts to embed|has a word"):
        tfidf(texts)
    with pytest.raises(BadInput, match="a dimension at least"):
        tfidf(TEXTS, dim=0)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(MissingExtra, match=r"holdfast\[items\]"):
        embed(TEXTS)


class Letters:
    """A tokenizer of one token per letter, none for an empty text."""

    pad_token_id = None
    eos_token_id = 2

    def __call__(self, texts: list[str], *, truncation: bool, max_length: int, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[3 + ord(letter) % 90 for letter in text][:max_length] for text in texts]}


@pytest.mark.parametrize("arch", ["llama", "gpt2", "bert", "t5"])
def test_a_model_gives_the_mean_of_its_last_states(arch: str) -> None:
    model = build(arch)
    base = Base(model, Letters(), arch, "")  # type: ignore[arg-type]
    lines: list[str] = []
    found = mean_pooled([*TEXTS, ""], base, batch=3, length=20, progress=lines.append)
    assert lines == ["3 of 7 texts embedded", "6 of 7 texts embedded", "7 of 7 texts embedded"]
    for text, row in zip(TEXTS, found, strict=False):
        ids = torch.tensor([[3 + ord(letter) % 90 for letter in text][:20]])
        with torch.no_grad():
            trunk = model.encoder if arch == "t5" else model
            states = trunk(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        mean = states.mean(0)
        torch.testing.assert_close(row, mean / mean.norm(), atol=1e-5, rtol=1e-4)
    assert bool(found[-1].isfinite().all())


def test_a_model_by_its_name() -> None:
    found = embed(TEXTS, "tiny")
    assert found.shape == (6, 64)
    torch.testing.assert_close(found, embed(TEXTS, load_base("tiny")))
    with pytest.raises(BadInput, match="no folder"):
        embed(TEXTS, "./nowhere")


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    write_embeddings(found, tmp_path / "e.npy")
    assert torch.equal(embed(TEXTS, tmp_path / "e.npy"), found)
    np.save(tmp_path / "half.npy", found.numpy().astype(np.float16))
    assert read_embeddings(tmp_path / "half.npy", 6).dtype == torch.float32


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(6, dtype=np.float32), r"float32 of shape \[6\]"),
        (np.zeros((6, 3), dtype=np.int64), "int64 of shape"),
        (np.zeros((5, 3)), "5 rows for 6 items"),
        (np.full((6, 3), np.nan), "6 items are not finite, the first in row 0"),
        (np.array([{}], dtype=object), "cannot be read as an array"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "e.npy", array, allow_pickle=True)
    with pytest.raises(BadInput, match=message):
        read_embeddings(tmp_path / "e.npy", 6)


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.npy").write_bytes(b"")
    for file in ("e.npy", "none.npy"):
        with pytest.raises(BadInput, match="cannot be read as an array"):
            read_embeddings(tmp_path / file, 6)
    np.savez(tmp_path / "more.npz", a=np.zeros((6, 3)))
    (tmp_path / "more.npz").rename(tmp_path / "e.npy")
    with pytest.raises(BadInput, match="holds an archive"):
        read_embeddings(tmp_path / "e.npy", 6)
