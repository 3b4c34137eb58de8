"""Quantisers level by level: residual k-means against scikit-learn, balanced ones against their bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.cluster import KMeans

from holdfast._errors import BadInput, UnknownName
from holdfast.items.quantisers import Balanced, Residual, balanced, nearest_codes, quantisers, residuals, sizes
from holdfast.items.rqvae import RQVAE
from tests.items.vectors import families

SMALL: dict[str, dict[str, Any]] = {
    "residual": {},
    "balanced": {},
    "rqvae": {"hidden": [24], "latent": 8, "steps": 30, "batch": 64},
}


def test_every_quantiser_has_a_name_and_knobs() -> None:
    assert quantisers.names() == sorted(SMALL)
    assert list(quantisers.knobs("residual")) == ["levels", "codes", "iterations"]
    assert quantisers.made("rqvae") == RQVAE() and quantisers.made({"residual": {"levels": 2}}) == Residual(2)
    with pytest.raises(UnknownName, match="code"):
        quantisers.made({"residual": {"code": 3}})


def test_residual_k_means_is_as_good_as_scikit_learn_at_every_level() -> None:
    x = families(1500, number=40)
    found = Residual(3, 16)(x)
    left = x.numpy()
    for level in range(3):
        theirs = KMeans(16, n_init=1, random_state=0).fit(left)
        ours = float(residuals(x, found.codes[:, : level + 1], found.codebooks).square().sum())
        assert ours <= 1.02 * theirs.inertia_
        left = left - theirs.cluster_centers_[theirs.labels_]


def test_residual_codes_are_the_nearest_and_codebooks_their_means() -> None:
    x = families()
    found = Residual(3, 8)(x)
    assert torch.equal(found.codes, nearest_codes(x, found.codebooks)) and torch.equal(found.vectors, x)
    for level, book in enumerate(found.codebooks):
        left = residuals(x, found.codes[:, :level], found.codebooks)
        for code in range(8):
            torch.testing.assert_close(book[code], left[found.codes[:, level] == code].mean(0), atol=0.06, rtol=0.05)


@pytest.mark.parametrize(("items", "codes"), [(300, 16), (305, [7, 16, 32]), (10, 16)])
def test_balanced_clusters_are_of_equal_size_at_every_level(items: int, codes: Any) -> None:
    found = Balanced(3, codes)(families(items))
    for level, size in enumerate(sizes(3, codes)):
        counts = torch.bincount(found.codes[:, level], minlength=size)
        assert int(counts.min()) >= items // size and int(counts.max()) <= -(-items // size)


def test_balance_costs_little_where_clusters_are_even_already() -> None:
    x = families(300, number=10) + 20 * families(300, number=10, seed=1).sign()
    plain, fair = Residual(1, 10)(x), balanced(x, 10)
    assert fair.inertia >= float((x - plain.codebooks[0][plain.codes[:, 0]]).square().sum()) * (1 - 1e-5)
    truth = torch.stack([x[i::10].mean(0) for i in range(10)])
    assert fair.inertia <= 1.001 * float((x - truth[torch.arange(300) % 10]).square().sum())


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_and_no_other_random_state_is_touched(name: str) -> None:
    x = families(200)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    made = quantisers.made({name: {"levels": 2, "codes": 8, **SMALL[name]}})
    first, again, other = made(x, seed=3), made(x, seed=3), made(x, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.codes, again.codes) and not torch.equal(first.codes, other.codes)
    assert all(torch.equal(a, b) for a, b in zip(first.codebooks, again.codebooks, strict=True))
    assert first.codes.shape == (200, 2) and [len(book) for book in first.codebooks] == [8, 8]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("items", [1, 2, 5])
def test_fewer_items_than_codes(name: str, items: int) -> None:
    found = quantisers.made({name: {"levels": 3, "codes": 8, **SMALL[name]}})(families(items))
    assert found.codes.shape == (items, 3) and all(len(book) == 8 for book in found.codebooks)
    if name == "residual":
        assert len(found.codes[:, 0].unique()) == items and found.codes[:, 1:].unique(dim=0).shape[0] == 1


def test_rounding_gets_no_codes() -> None:
    x = families(6) + 100
    found = Residual(2, 8)(x)
    assert not residuals(x, found.codes[:, :1], found.codebooks).any()


def test_progress_is_told() -> None:
    lines: list[str] = []
    Balanced(2, 8)(families(), progress=lines.append)
    assert lines[-1] == "level 2 of 2: done, 8 codes of 8 in use"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 0}, "1 to 26 levels"),
        ({"levels": 27}, "1 to 26 levels"),
        ({"codes": [4, 4]}, "for each of 3 levels"),
        ({"codes": 0}, "above 0"),
    ],
)
def test_settings_that_make_no_id_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Residual(**settings)(families(20))


@pytest.mark.parametrize("name", SMALL)
def test_embeddings_that_cannot_be_used_are_refused(name: str) -> None:
    broken = families(20)
    broken[7, 2] = torch.nan
    with pytest.raises(BadInput, match=r"1 items are not finite, the first in row 7"):
        quantisers.made(name)(broken)
    with pytest.raises(BadInput, match=r"\[items, dim\]"):
        quantisers.made(name)(torch.rand(5))
