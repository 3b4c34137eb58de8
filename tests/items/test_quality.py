"""The quality report against counts by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.items import quality as room
from holdfast.items.building import identify
from holdfast.items.identifiers import SemanticIDs
from holdfast.items.quality import neighbourhoods, quality
from holdfast.items.quantisers import residuals
from tests.items.vectors import families, names

RQVAE = {"rqvae": {"levels": 2, "codes": 8, "hidden": [16], "latent": 4, "steps": 10, "batch": 64}}


def share_by_loop(codes: Tensor, x: Tensor, near: int) -> float:
    hits = []
    for i in range(len(x)):
        distances = (x - x[i]).square().sum(1)
        distances[i] = math.inf
        hits += [bool((codes[j] == codes[i]).all()) for j in distances.argsort()[:near]]
    return sum(hits) / len(hits)


def test_levels_are_counted_by_hand() -> None:
    ids = SemanticIDs(tuple(names(4)), torch.tensor([[0, 1], [0, 1], [0, 2], [5, 7]]))
    first, second = quality(ids).levels
    assert (first.codes, first.used, first.smallest, first.largest, first.error) == (None, 2, 1, 3, None)
    assert first.perplexity == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert second.perplexity == pytest.approx(2**1.5)
    assert quality(ids).after.as_dict() == {"items": 2, "groups": 1, "largest": 2}


def test_neighbours_are_those_of_a_loop() -> None:
    x = families(60)
    codes = identify(names(60), x, {"residual": {"levels": 2, "codes": 8}}).codes
    one, two = neighbourhoods(codes, x)
    assert one.share == pytest.approx(share_by_loop(codes[:, :1], x, 10))
    assert two.share == pytest.approx(share_by_loop(codes, x, 10))
    others = [(a, b) for a in range(60) for b in range(60) if a != b]
    chance = sum(bool(codes[a, 0] == codes[b, 0]) for a, b in others) / len(others)
    assert one.by_chance == pytest.approx(chance) and one.lift == pytest.approx(one.share / chance)
    assert one.lift is not None and one.lift > 2


def test_ids_dealt_out_at_random_have_no_lift() -> None:
    codes = torch.randint(4, (2000, 2), generator=torch.Generator().manual_seed(0))
    one, two = neighbourhoods(codes, families(2000))
    assert one.lift == pytest.approx(1, abs=0.05) and two.lift == pytest.approx(1, abs=0.1)


def test_a_sample_comes_near_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = families(500)
    codes = identify(names(500), x, {"residual": {"levels": 2, "codes": 32}}).codes
    whole = neighbourhoods(codes, x)[0].share
    monkeypatch.setattr(room, "QUERIES", 200)
    monkeypatch.setattr(room, "BLOCK", 64)
    assert neighbourhoods(codes, x)[0].share == pytest.approx(whole, abs=0.05)
    assert neighbourhoods(codes, x, seed=1) == neighbourhoods(codes, x, seed=1)


def test_the_error_is_what_the_codes_leave() -> None:
    x = families(100) + 5
    ids = identify(names(100), x, {"residual": {"levels": 2, "codes": 12}})
    found = quality(ids, x)
    for level in (1, 2):
        left = residuals(x, ids.codes[:, :level], ids.codebooks)
        expected = float(left.square().sum() / (x - x.mean(0)).square().sum())
        assert found.levels[level - 1].error == pytest.approx(expected, rel=1e-4)
    assert found.error == found.levels[-1].error


def test_a_suffix_tells_nothing_of_the_embedding() -> None:
    x = families(100)
    levels = quality(identify(names(100), x, {"residual": {"levels": 2, "codes": 8}}, shared="suffix"), x).levels
    assert levels[2].error == levels[1].error


def test_the_report_is_plain() -> None:
    x = families(60)
    ids = identify(names(60), x, RQVAE)
    again = quality(ids, x).as_dict()
    assert json.loads(json.dumps(again))["levels"] == json.loads(json.dumps(ids.report))["levels"]
    assert again["error"] > 0


def test_small_catalogues_have_a_report_too() -> None:
    assert not quality(identify(["0"], families(1)), families(1)).neighbourhoods
    two = quality(identify(names(2), families(2)), families(2)).neighbourhoods[0]
    assert (two.share, two.by_chance, two.lift) == (0.0, 0.0, None)


def test_embeddings_of_other_items_are_refused() -> None:
    ids = identify(names(9), families(9))
    with pytest.raises(BadInput, match="8 embeddings do not go with 9 items"):
        quality(ids, families(8))
    with pytest.raises(BadInput, match="Embed the items as it was done then"):
        quality(ids, families(9, 5))
