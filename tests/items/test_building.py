"""IDs made from embeddings, grown, and given codebooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput, UnknownName
from holdfast.items.building import adopt, grow, identify
from holdfast.items.collisions import collisions
from holdfast.items.identifiers import SemanticIDs
from holdfast.items.quantisers import nearest_codes
from tests.items.vectors import families, names

SMALL: list[dict[str, Any]] = [
    {"residual": {"levels": 2, "codes": 16}},
    {"balanced": {"levels": 2, "codes": 16, "iterations": 3}},
    {"rqvae": {"levels": 2, "codes": 16, "hidden": [16], "latent": 8, "steps": 30, "batch": 64}},
]


@pytest.mark.parametrize("quantiser", SMALL)
@pytest.mark.parametrize("shared", ["move", "suffix"])
def test_ids_are_unique_of_equal_length_and_told_of(quantiser: dict[str, Any], shared: Any) -> None:
    x = families(150)
    ids = identify(names(150), x, quantiser, shared=shared, seed=2)
    assert len(set(ids.tokens.values())) == 150
    assert {len(tokens) for tokens in ids.tokens.values()} == {2 if shared == "move" else 3}
    assert ids.report["before"]["items"] > 0 and ids.report["after"] == {"items": 0, "groups": 0, "largest": 1}
    assert ids.settings == {"quantiser": quantiser, "shared": shared, "seed": 2}
    assert ids.ordinal is (shared == "suffix") and set(ids.token_vectors()) == set(ids.vocabulary)
    again = identify(names(150), x, quantiser, shared=shared, seed=2)
    assert torch.equal(again.codes, ids.codes) and again.report == ids.report


def test_shared_ids_are_kept_when_told_so() -> None:
    ids = identify(names(150), families(150), SMALL[0], shared="keep")
    assert ids.report["before"] == ids.report["after"] == collisions(ids.codes).as_dict()
    assert ids.report["after"]["items"] > 0


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 27), st.integers(1, 27), st.integers(0, 99))
def test_ids_are_unique_also_where_items_are_equal(items: int, distinct: int, seed: int) -> None:
    x = families(min(items, distinct), 4, seed=seed)[torch.arange(items) % min(items, distinct)]
    ids = identify(names(items), x, {"residual": {"levels": 3, "codes": 3}}, seed=seed)
    assert len(set(ids.tokens.values())) == items


@pytest.mark.parametrize("quantiser", SMALL)
@pytest.mark.parametrize("shared", ["move", "suffix"])
def test_growth_keeps_the_old_ids(quantiser: dict[str, Any], shared: Any) -> None:
    x = families(200)
    old = identify(names(120), x[:120], quantiser, shared=shared)
    new = grow(old, names(200)[120:], x[120:])
    assert new.items == tuple(names(200)) and torch.equal(new.codes[:120], old.codes)
    assert len(set(new.tokens.values())) == 200 and not new.report
    further = grow(old, ["a copy"], x[:1])  # an item like the first one, whose ID is taken
    assert torch.equal(further.codes[-1, :1], nearest_codes(old.vectors(x[:1]), old.codebooks)[0, :1])
    assert len(set(further.tokens.values())) == 121


def test_a_new_item_takes_the_nearest_codes_where_they_are_free() -> None:
    x = families(60)
    old = identify(names(50), x[:50], {"residual": {"levels": 3, "codes": 16}})
    wanted = nearest_codes(x[50:51], old.codebooks)
    assert not (old.codes == wanted).all(1).any()
    assert torch.equal(grow(old, ["new"], x[50:51]).codes[-1:], wanted)


def test_growth_goes_on_with_the_numbers_of_a_suffix() -> None:
    x = families(3, 4)
    old = identify(names(3), x, {"residual": {"levels": 1, "codes": 4}}, shared="suffix")
    new = grow(old, ["3", "4", "5"], x[[1, 1, 2]])
    assert new.codes[:, 1].tolist() == [0, 0, 0, 1, 2, 1] and torch.equal(new.codes[3:, 0], old.codes[[1, 1, 2], 0])
    assert len(new.codebooks[1]) == 3 and not new.codebooks[1].any()


def test_growth_ends_where_ids_do() -> None:
    x = families(20)
    old = identify(names(15), x[:15], {"residual": {"levels": 2, "codes": 4}})
    assert collisions(grow(old, ["15"], x[15:16]).codes).items == 0
    with pytest.raises(BadInput, match="17 items need as many IDs, and 4 x 4 codes make 16"):
        grow(old, ["15", "16"], x[15:17])


def test_growth_of_what_cannot_grow_is_refused() -> None:
    x = families(20)
    old = identify(names(20), x, SMALL[0])
    with pytest.raises(BadInput, match="1 of the new items have an ID already, '7'"):
        grow(old, ["7"], x[:1])
    with pytest.raises(BadInput, match="named twice"):
        grow(old, ["20", "20"], x[:2])
    with pytest.raises(BadInput, match="embeddings do not go with"):
        grow(old, ["20"], x[:2])
    with pytest.raises(BadInput, match="Embed the items as it was done then"):
        grow(old, ["20"], x[:1, :5])
    with pytest.raises(BadInput, match="without codebooks"):
        grow(SemanticIDs(old.items, old.codes), ["20"], x[:1])
    shared = identify(names(40), families(20).repeat(2, 1), SMALL[0], shared="keep")
    with pytest.raises(BadInput, match="shared by several items"):
        grow(shared, ["40"], x[:1])


def test_ids_from_elsewhere_get_codebooks_and_are_parted() -> None:
    x = families(150)
    made = identify(names(150), x, SMALL[0], shared="keep")
    bare = SemanticIDs(made.items, made.codes)
    kept = adopt(bare, x, shared="keep")
    for ours, theirs in zip(kept.codebooks, made.codebooks, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.1  # k-means ended near the means of its clusters
    parted = adopt(bare, x)
    _, group, counts = torch.unique(made.codes, dim=0, return_inverse=True, return_counts=True)
    alone = (counts == 1)[group]
    assert len(set(parted.tokens.values())) == 150 and torch.equal(parted.codes[alone], made.codes[alone])
    assert parted.report["before"] == kept.report["after"]
    assert len(set(grow(parted, ["new"], x[:1]).tokens.values())) == 151
    assert adopt(bare, x, shared="suffix").ordinal and [len(b) for b in adopt(bare, x, codes=20).codebooks] == [20, 20]


def test_ids_that_cannot_be_given_codebooks_are_refused() -> None:
    ids = SemanticIDs(("0", "1"), torch.tensor([[1, 2, -1], [1, 2, 0]]))
    with pytest.raises(BadInput, match="several lengths"):
        adopt(ids, families(2))
    with pytest.raises(BadInput, match="3 embeddings do not go with 2"):
        adopt(ids, families(3))
    with pytest.raises(BadInput, match="need more codes than"):
        adopt(SemanticIDs(("0", "1"), torch.tensor([[1, 2], [1, 0]])), families(2), codes=2)


def test_what_makes_no_ids_is_refused() -> None:
    x = families(20)
    with pytest.raises(BadInput, match="20 embeddings do not go with 19 items"):
        identify(names(19), x)
    with pytest.raises(UnknownName, match="'sufix'"):
        identify(names(20), x, shared="sufix")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="quantiser 'residul'"):
        identify(names(20), x, "residul")
    with pytest.raises(BadInput, match="Take more codes or more levels"):
        identify(names(20), x, {"residual": {"levels": 2, "codes": 4}})


def test_progress_is_told() -> None:
    lines: list[str] = []
    identify(names(150), families(150), SMALL[0], progress=lines.append)
    assert lines[-1].endswith("of 150 items share an ID")
