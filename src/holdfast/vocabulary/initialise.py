"""What new rows start as: near the mean of the old ones, made of a description's tokens, or of given vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

import torch
from torch import Tensor

from holdfast._errors import BadInput
from holdfast._registry import Registry


@dataclass(frozen=True)
class Known:
    """What is known of new tokens, in the order of their ids.

    `texts` are descriptions of a token as ids of old tokens, `vectors` a vector of a token, of any width; there may be
    more of them than new tokens. `first` is the first of their ids, `side` the matrix that rows are made for: what is
    drawn differs with both, so that tokens of a later extension are no twins of earlier ones.
    """

    tokens: tuple[str, ...]
    texts: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    first: int = 0
    side: Side = "input"


Side = Literal["input", "output"]

Initialiser = Callable[..., Tensor]
"""(matrix [ids, width], known, *, seed, **knobs) -> rows [tokens, width], float32; no other random state moves."""

initialisers: Registry[Initialiser] = Registry("initialiser")


@initialisers.register("mean")
def mean(matrix: Tensor, known: Known, *, seed: int = 0) -> Tensor:
    """Each row is the mean of the old ones, so `seed` changes nothing. Hewitt (2021), "Initializing New Word
    Embeddings for Pretrained Language Models"."""
    return _average(matrix).expand(len(known.tokens), -1).clone()


@initialisers.register("normal")
def normal(matrix: Tensor, known: Known, *, spread: float = 0.1, seed: int = 0) -> Tensor:
    """Drawn around the mean of the old rows, in each dimension with `spread` times their standard deviation."""
    return _average(matrix) + spread * _scatter(matrix) * _drawn(
        len(known.tokens), matrix.shape[1], _salted(seed, known.side, known.first), matrix
    )


@initialisers.register("text")
def text(matrix: Tensor, known: Known, *, spread: float = 0.1, seed: int = 0) -> Tensor:
    """The mean of the rows of a description's tokens; a token without one starts as under `normal`.

    Of several descriptions, each counts alike. `spread` draws rows apart that have the same descriptions. Raises
    BadInput where no token has a description.
    """
    if not any(known.texts.get(token) for token in known.tokens):
        raise BadInput("The initialiser `text` needs descriptions of the new tokens, and there are none.")
    rows, center = normal(matrix, known, spread=spread, seed=seed), _average(matrix)
    for i, token in enumerate(known.tokens):
        if texts := [list(ids) for ids in known.texts.get(token, ()) if len(ids)]:
            rows[i] += torch.stack([matrix[ids].float().mean(0) for ids in texts]).mean(0) - center
    return rows


@initialisers.register("codebook")
def codebook(matrix: Tensor, known: Known, *, spread: float = 0.5, seed: int = 0) -> Tensor:
    """Given vectors, turned into the space of the rows: what is near there is near here.

    Vectors are projected by a random matrix with orthogonal columns (or rows, where they are wider than the model),
    and each set (tokens that share all but their number: a level of a semantic ID) is moved to the mean of the old rows
    with `spread` times their standard deviation. What a set is measured by are the vectors of all its tokens, new or
    not, so that a grown set goes on in the same place. Raises BadInput for tokens without a vector, and for vectors of
    several widths.
    """
    if missing := [token for token in known.tokens if token not in known.vectors]:
        raise BadInput(f"The initialiser `codebook` needs a vector of each new token; {missing[0]} has none.")
    vectors = {token: vector.float().flatten() for token, vector in known.vectors.items()}
    if len(widths := {len(vector) for vector in vectors.values()}) > 1:
        raise BadInput("The vectors of the new tokens are of several widths; the initialiser `codebook` needs one.")
    (width,) = widths
    turn = _projection(width, matrix.shape[1], _salted(seed, known.side), matrix)
    turned = torch.stack([*vectors.values()]).to(matrix.device) @ turn
    placed = torch.empty_like(turned)
    for places in _sets([*vectors]):
        part = turned[places] - turned[places].mean(0)
        placed[places] = _average(matrix) + spread * _scatter(matrix) * part / part.std().clamp(min=1e-12)
    at = {token: i for i, token in enumerate(vectors)}
    return placed[[at[token] for token in known.tokens]]


def _salted(seed: int, *about: object) -> int:
    """A seed of its own for each use."""
    return int.from_bytes(sha256(repr((seed, *about)).encode()).digest()[:7])


def _average(matrix: Tensor) -> Tensor:
    return matrix.float().mean(0)


def _scatter(matrix: Tensor) -> Tensor:
    return matrix.float().std(0)


def _drawn(rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    if like.device.type == "meta":
        return torch.zeros(rows, columns, device="meta")
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(like.device)


def _projection(rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    """A matrix [rows, columns] with orthogonal columns or rows, whichever are fewer."""
    drawn = _drawn(max(rows, columns), min(rows, columns), seed, like)
    if drawn.is_meta:
        return drawn.new_zeros(rows, columns)
    orthogonal: Tensor = torch.linalg.qr(drawn)[0]
    return orthogonal if rows >= columns else orthogonal.t()


def _sets(tokens: Sequence[str]) -> list[list[int]]:
    """Places of tokens that differ in their digits alone."""
    sets: dict[str, list[int]] = {}
    for i, token in enumerate(tokens):
        sets.setdefault("".join(c for c in token if not c.isdigit()), []).append(i)
    return list(sets.values())
