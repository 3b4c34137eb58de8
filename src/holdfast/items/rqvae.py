"""A residual-quantised autoencoder: codes of what an encoder makes of the embeddings, learnt together with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import linear, mse_loss, relu

from holdfast._errors import BadInput
from holdfast.items.assignment import prices
from holdfast.items.kmeans import Say, kmeans
from holdfast.items.quantisers import Quantised, check_vectors, nearest_codes, quantisers, sizes, squared

MEAN, SCALE = "input.mean", "input.scale"
Networks = Mapping[str, Tensor]
"""`encoder.N.weight`, `encoder.N.bias`, the same of the decoder, and the mean and scale of the embeddings."""


@quantisers.register("rqvae")
@dataclass(frozen=True)
class RQVAE:
    """A residual-quantised VAE (Lee et al., arXiv:2203.01941), for IDs of items as Rajput et al. (arXiv:2305.05065).

    Minimised over `steps` batches by AdamW with a cosine-decayed `learning_rate`, means over items and dimensions:
    |x - decoder(z + sg(q - z))|² + sum over levels of |e - sg(r)|² + `beta` |sg(e) - r|², where z is the encoder's
    output, r what the levels before leave of it, e the code chosen for r, q the sum of the e, and sg stops the
    gradient. x are the embeddings, centred and scaled to a mean square of 1.

    Codebooks start from residual k-means of the first z. A code that no item of one pass over the data chose starts
    again where a random item's r is. The nearest code is chosen; with `sinkhorn` above 0 (an entropy relative to the
    spread of distances, say 0.01) codes are chosen evenly within each batch while training, by Sinkhorn's prices, at
    every level. `hidden` are the widths between the embedding and `latent`, and the same backwards in the decoder.
    """

    levels: int = 3
    codes: int | Sequence[int] = 256
    hidden: Sequence[int] = (256, 128)
    latent: int = 32
    steps: int = 2000
    batch: int = 1024
    learning_rate: float = 3e-3
    beta: float = 0.25
    sinkhorn: float = 0.0

    def __call__(self, embeddings: Tensor, *, seed: int = 0, progress: Say | None = None) -> Quantised:
        """Codes of embeddings [items, dim]; raises BadInput for what cannot be used and where training diverges."""
        check_vectors(embeddings)
        self._check()
        generator = torch.Generator().manual_seed(seed)
        x = embeddings.float()
        networks = {**_normal(x), **_network("encoder", [x.shape[1], *self.hidden, self.latent], generator, x.device)}
        networks |= _network("decoder", [self.latent, *reversed(self.hidden), x.shape[1]], generator, x.device)
        books = _first_codebooks(encoded(networks, x), sizes(self.levels, self.codes), seed)
        with torch.enable_grad():
            self._train(x, networks, books, generator, progress)
        networks = {name: tensor.detach() for name, tensor in networks.items()}
        z, codebooks = encoded(networks, x), tuple(book.detach() for book in books)
        return Quantised(nearest_codes(z, codebooks), codebooks, z, networks)

    def _check(self) -> None:
        if min(self.latent, self.steps, self.batch, *self.hidden) < 1 or self.learning_rate <= 0:
            raise BadInput("An RQ-VAE has widths, `steps`, `batch` and `learning_rate` above 0.")
        if self.beta < 0 or self.sinkhorn < 0:
            raise BadInput(f"`beta` and `sinkhorn` are at least 0, not {self.beta} and {self.sinkhorn}.")

    def _train(
        self, x: Tensor, networks: dict[str, Tensor], books: list[Tensor], draws: torch.Generator, say: Say | None
    ) -> None:
        learnt = [*(t for name, t in networks.items() if not name.startswith("input.")), *books]
        for tensor in learnt:
            tensor.requires_grad_(True)
        optimizer = torch.optim.AdamW(learnt, lr=self.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        used = [torch.zeros(len(book), dtype=torch.bool, device=x.device) for book in books]
        for step, (rows, passed) in zip(range(1, self.steps + 1), _batches(len(x), self.batch, draws), strict=False):
            taken = loss(networks, books, x[rows.to(x.device)], self.beta, self.sinkhorn)
            optimizer.zero_grad()
            taken.total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            for seen, chosen in zip(used, taken.codes.unbind(1), strict=True):
                seen[chosen] = True
            if passed and step < 0.8 * self.steps:
                _restart(books, used, taken.left, optimizer, draws)
            if passed:
                used = [torch.zeros_like(seen) for seen in used]
            if step % 100 == 0 or step == self.steps:
                self._told(step, taken, say)

    def _told(self, step: int, taken: Loss, say: Say | None) -> None:
        if not math.isfinite(float(taken.total.detach())):
            raise BadInput(f"The RQ-VAE diverged by step {step}. Lower `learning_rate`, now {self.learning_rate:g}.")
        if say:
            figures = f"reconstruction {taken.reconstruction:.4f}, codes {taken.quantisation:.4f}"
            say(f"step {step} of {self.steps}: {figures}")


@dataclass(frozen=True, eq=False)
class Loss:
    """What a batch costs, in its two parts, the codes chosen [items, levels], and what for: [items, latent] each."""

    total: Tensor
    reconstruction: float
    quantisation: float
    codes: Tensor
    left: list[Tensor]


def loss(networks: Networks, books: Sequence[Tensor], x: Tensor, beta: float, sinkhorn: float = 0.0) -> Loss:
    """The loss of embeddings x [items, dim], as `RQVAE` says it."""
    z = encoded(networks, x)
    r, chosen, lefts, quantisation = z, [], [], z.new_zeros(())
    for book in books:
        with torch.no_grad():
            distances = squared(r, book)
            if sinkhorn > 0:
                distances = distances + prices(distances, sharpness=1 / sinkhorn, rounds=20)
            code = distances.argmin(1)
        e = book[code]
        quantisation = quantisation + mse_loss(e, r.detach()) + beta * mse_loss(r, e.detach())
        chosen.append(code)
        lefts.append(r.detach())
        r = r - e.detach()
    through = z - r.detach()  # in value the sum of the codes, in gradient z
    reconstruction = mse_loss(_layers(networks, "decoder", through), (x - networks[MEAN]) / networks[SCALE])
    total, said = reconstruction + quantisation, (float(reconstruction.detach()), float(quantisation.detach()))
    return Loss(total, *said, torch.stack(chosen, 1), lefts)


def encoded(networks: Networks, embeddings: Tensor) -> Tensor:
    """What the encoder makes of embeddings [items, dim]: [items, latent]."""
    x = (embeddings.to(networks[MEAN]) - networks[MEAN]) / networks[SCALE]
    return _layers(networks, "encoder", x)


def decoded(networks: Networks, latents: Tensor) -> Tensor:
    """The embeddings [items, dim] that the decoder makes of latent vectors [items, latent]."""
    return _layers(networks, "decoder", latents) * networks[SCALE] + networks[MEAN]


def _layers(networks: Networks, part: str, x: Tensor) -> Tensor:
    depth = sum(name.startswith(f"{part}.") for name in networks) // 2
    for i in range(depth):
        x = linear(x, networks[f"{part}.{i}.weight"], networks[f"{part}.{i}.bias"])
        x = relu(x) if i + 1 < depth else x
    return x


def _network(part: str, widths: Sequence[int], draws: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """Layers that keep the variance (He et al. 2015; no ReLU follows the last), drawn from a generator."""
    found = {}
    for i, (wide, out) in enumerate(pairwise(widths)):
        spread = math.sqrt((2 if i + 2 < len(widths) else 1) / wide)
        found[f"{part}.{i}.weight"] = (torch.randn(out, wide, generator=draws) * spread).to(device)
        found[f"{part}.{i}.bias"] = torch.zeros(out, device=device)
    return found


def _normal(x: Tensor) -> dict[str, Tensor]:
    mean = x.mean(0)
    return {MEAN: mean, SCALE: (x - mean).square().mean().sqrt().clamp(min=1e-12).reshape(1)}


def _first_codebooks(z: Tensor, codes: Sequence[int], seed: int) -> list[Tensor]:
    found = []
    for level, size in enumerate(codes):
        clusters = kmeans(z, size, seed=seed + level, iterations=20)
        found.append(clusters.centres)
        z = z - clusters.centres[clusters.labels]
    return found


def _batches(items: int, batch: int, draws: torch.Generator) -> Iterator[tuple[Tensor, bool]]:
    """Rows of batch after batch, pass after pass without end, and whether a pass ended with it."""
    while True:
        parts = torch.split(torch.randperm(items, generator=draws), batch)
        for i, rows in enumerate(parts, start=1):
            yield rows, i == len(parts)


@torch.no_grad()
def _restart(
    books: Sequence[Tensor],
    used: Sequence[Tensor],
    left: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    draws: torch.Generator,
) -> None:
    """Codes that nobody chose go where random items of the batch are, and forget how they moved."""
    for book, seen, points in zip(books, used, left, strict=True):
        dead = (~seen).nonzero()[:, 0][: len(points)]
        book[dead] = points[torch.randperm(len(points), generator=draws)[: len(dead)].to(points.device)]
        for kept in ("exp_avg", "exp_avg_sq"):
            optimizer.state[book][kept][dead] = 0.0
