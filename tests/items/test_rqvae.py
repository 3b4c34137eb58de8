"""The RQ-VAE against its formula, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast.items.quantisers import nearest_codes
from holdfast.items.rqvae import MEAN, RQVAE, SCALE, decoded, encoded, loss
from tests.items.vectors import families

SMALL = RQVAE(levels=2, codes=8, hidden=[24], latent=8, steps=150, batch=64, learning_rate=1e-2)


def linear_networks(dim: int, latent: int) -> dict[str, Tensor]:
    """One layer each, so that every gradient can be written down."""
    draws = torch.Generator().manual_seed(1)
    return {
        MEAN: torch.randn(dim, generator=draws),
        SCALE: torch.tensor([0.7]),
        "encoder.0.weight": torch.randn(latent, dim, generator=draws),
        "encoder.0.bias": torch.randn(latent, generator=draws),
        "decoder.0.weight": torch.randn(dim, latent, generator=draws),
        "decoder.0.bias": torch.randn(dim, generator=draws),
    }


def test_the_gradient_is_that_of_the_formula() -> None:
    networks, x, beta = linear_networks(6, 4), families(10, 6), 0.25
    draws = torch.Generator().manual_seed(2)
    books = [torch.randn(5, 4, generator=draws).requires_grad_() for _ in range(2)]
    bias = networks["encoder.0.bias"].requires_grad_()  # its gradient is the sum over items of that of z
    found = loss(networks, books, x, beta)
    found.total.backward()

    with torch.no_grad():
        target = (x - networks[MEAN]) / networks[SCALE]
        z = encoded(networks, x)
        codes = nearest_codes(z, books)
        e = [book[codes[:, i]] for i, book in enumerate(books)]
        r = [z, z - e[0]]
        miss = (e[0] + e[1]) @ networks["decoder.0.weight"].T + networks["decoder.0.bias"] - target
        to_z = 2 / miss.numel() * miss @ networks["decoder.0.weight"]  # straight through: as if z had been decoded
        to_z += sum(2 * beta / z.numel() * (r[i] - e[i]) for i in range(2))
        reconstruction = miss.square().mean()
        commitment = sum((1 + beta) * (r[i] - e[i]).square().mean() for i in range(2))
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(found.total.detach(), reconstruction + commitment)
    torch.testing.assert_close(bias.grad, to_z.sum(0))
    for i, book in enumerate(books):
        to_book = torch.zeros_like(book).index_add_(0, codes[:, i], 2 / z.numel() * (e[i] - r[i]))
        torch.testing.assert_close(book.grad, to_book)


def test_training_says_more_than_it_began_with() -> None:
    x, lines = families(400, number=16), list[str]()
    found = SMALL(x, progress=lines.append)
    assert "step 100 of 150" in lines[0]
    said = sum(book[found.codes[:, i]] for i, book in enumerate(found.codebooks))
    assert isinstance(said, Tensor)
    error = (x - decoded(found.networks, said)).square().sum() / (x - x.mean(0)).square().sum()
    assert float(error) < 0.6
    torch.testing.assert_close(found.vectors, encoded(found.networks, x))
    assert torch.equal(found.codes, nearest_codes(found.vectors, found.codebooks))
    assert not any(t.requires_grad for t in (*found.codebooks, *found.networks.values(), found.vectors))


def test_it_trains_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        assert SMALL(families(50)).codes.shape == (50, 2)


def test_codes_that_nobody_chose_start_again() -> None:
    x = families(300, number=16)
    short = RQVAE(levels=1, codes=8, hidden=[24], latent=8, steps=40, batch=300, learning_rate=1e-2)
    assert len(short(x).codes.unique()) >= 7


def test_sinkhorn_spreads_codes() -> None:
    networks, x = linear_networks(6, 4), families(200, 6)
    book = [torch.randn(8, 4, generator=torch.Generator().manual_seed(0)) * 0.1 + 3]
    plain = torch.bincount(loss(networks, book, x, 0.25).codes[:, 0], minlength=8)
    spread = torch.bincount(loss(networks, book, x, 0.25, sinkhorn=0.01).codes[:, 0], minlength=8)
    assert int(spread.max()) < 0.6 * int(plain.max()) and int(spread.min()) > int(plain.min())
    assert RQVAE(2, 8, [24], 8, 5, 64, sinkhorn=0.05)(families(100)).codes.shape == (100, 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (RQVAE(steps=0), "above 0"),
        (RQVAE(hidden=[0]), "above 0"),
        (RQVAE(learning_rate=0.0), "above 0"),
        (RQVAE(beta=-1.0), "at least 0"),
        (RQVAE(sinkhorn=-0.1), "at least 0"),
        (RQVAE(2, 4, [8], 4, 100, 32, learning_rate=1e20), "diverged"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: RQVAE, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        wrong(families(60))
