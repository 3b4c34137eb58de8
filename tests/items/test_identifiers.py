"""Semantic IDs and their tokens."""

from __future__ import annotations

import pytest
import torch

from holdfast._errors import BadInput, UnknownName
from holdfast.items.identifiers import SemanticIDs, parsed, token
from tests.items.vectors import families

CODES = torch.tensor([[236, 1, 0], [4, 1, 2]])
BOOKS = tuple(torch.rand(300, 5, generator=torch.Generator().manual_seed(i)) for i in range(3))


def test_tokens_are_letters_and_numbers_in_the_order_of_the_items() -> None:
    ids = SemanticIDs(("9", "0"), CODES)
    assert ids.tokens == {"9": ("<a_236>", "<b_1>", "<c_0>"), "0": ("<a_4>", "<b_1>", "<c_2>")}
    assert list(ids.tokens) == ["9", "0"] and ids.of("0") == ("<a_4>", "<b_1>", "<c_2>")
    assert ids.vocabulary == ["<a_4>", "<a_236>", "<b_1>", "<c_0>", "<c_2>"]
    with pytest.raises(UnknownName, match="item '7'"):
        ids.of("7")


def test_each_token_has_the_row_of_its_code() -> None:
    vectors = SemanticIDs(("9", "0"), CODES, BOOKS).token_vectors()
    assert list(vectors) == ["<a_4>", "<a_236>", "<b_1>", "<c_0>", "<c_2>"]
    assert torch.equal(vectors["<a_236>"], BOOKS[0][236]) and torch.equal(vectors["<c_2>"], BOOKS[2][2])


def test_shorter_ids_have_fewer_tokens() -> None:
    ids = SemanticIDs(("0", "1"), torch.tensor([[1, 2, -1], [1, 2, 0]]))
    assert ids.tokens == {"0": ("<a_1>", "<b_2>"), "1": ("<a_1>", "<b_2>", "<c_0>")}
    assert ids.vocabulary == ["<a_1>", "<b_2>", "<c_0>"]


def test_tokens_are_read_as_they_are_written() -> None:
    assert parsed([token(i, code) for i, code in enumerate([7, 0, 255])]) == [7, 0, 255]


@pytest.mark.parametrize("tokens", [["<b_1>"], ["<a_01>"], ["<a_1"], ["a_1"], ["<a_1>", "<a_2>"], ["<a_-1>"]])
def test_other_tokens_are_refused(tokens: list[str]) -> None:
    with pytest.raises(ValueError, match="stands where a token like"):
        parsed(tokens)


def test_more_tokens_than_letters_are_refused() -> None:
    with pytest.raises(ValueError, match="more than there are letters"):
        parsed([*(f"<{chr(97 + i)}_0>" for i in range(26)), "<a_1>"])


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="named twice"):
        SemanticIDs(("0", "0"), CODES)
    with pytest.raises(BadInput, match="3 items have no codes"):
        SemanticIDs(("0", "1", "2"), CODES)
    with pytest.raises(BadInput, match="do not hold all codes"):
        SemanticIDs(("0", "1"), CODES, (BOOKS[0][:200], *BOOKS[1:]))
    with pytest.raises(BadInput, match="without codebooks"):
        SemanticIDs(("0", "1"), CODES).token_vectors()
    with pytest.raises(BadInput, match=r"embeddings \[items, 5\]"):
        SemanticIDs(("0", "1"), CODES, BOOKS).vectors(families(2, 4))
