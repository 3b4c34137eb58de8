"""The pull towards an anchor: one proximal step on weights, or on the product of LoRA factors, stable at any strength.

A pull of weight a moves x to argmin ½|x - x⁺|² + ½ a f |x - anchor|², with f the importance of each element; that is
a fraction a f / (1 + a f) of the way to the anchor (Parikh & Boyd, 2014, "Proximal algorithms", section 6.1).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from holdfast._errors import Unsupported
from holdfast.rule import Move
from holdfast.run import Run

CHUNK = 1 << 18
"""Elements pulled at a time, so that what lies between two operations stays in the processor's cache."""


def refuse(run: Run, name: str) -> None:
    """Raise Unsupported where a LoRA product is split over processes, so that no one of them can hold it back."""
    if any(p.lora and isinstance(run.tensors[n], DTensor) for n, p in run.params.items()):
        raise Unsupported(
            f"{name} holds back the product of LoRA factors, which FSDP2 splits; use plain data parallel."
        )


def pull(move: Move, anchors: Mapping[str, Tensor], weight: float, importance: Tensor | None = None) -> None:
    """Pull one parameter in place, towards the anchor of its path; a LoRA factor by way of its product.

    `importance` has the shape of the parameter, or [out, in] of the product; None counts every element alike.
    """
    if move.param.lora is None or move.partner is None:
        _pull_weights(move.after, anchors[move.param.path], weight, importance)
    else:
        _pull_product(move, anchors, weight * move.param.lora.scaling**2, importance)


def _pull_weights(after: Tensor, anchor: Tensor, weight: float, importance: Tensor | None) -> None:
    if importance is None:
        after.lerp_(anchor, weight / (1 + weight))
        return
    flat = (after.view(-1), anchor.reshape(-1), importance.reshape(-1))
    for x, x0, f in zip(*(torch.split(t, CHUNK) for t in flat), strict=True):
        way = f * weight
        x.lerp_(x0, way.div_(way + 1))


def _pull_product(move: Move, anchors: Mapping[str, Tensor], weight: float, importance: Tensor | None) -> None:
    """The exact minimiser in one factor given the other, so that the product s·BA, not the factor, nears its anchor.

    Asking for A [rank, in] and for B [out, rank] in each step is alternating minimisation: no half-step increases the
    weighted distance of the product from its anchor.
    """
    factor, partner = move.param.lora, move.partner
    assert factor is not None and partner is not None
    own, other = anchors[move.param.path], anchors.get(factor.partner, partner)  # a factor frozen by hand has no anchor
    if factor.side == "B":
        move.after.sub_(_correction(move.after, partner, own, other, weight, importance))
    else:
        turned = None if importance is None else importance.T
        move.after.sub_(_correction(move.after.T, partner.T, own.T, other.T, weight, turned).T)


def _correction(x: Tensor, y: Tensor, x0: Tensor, y0: Tensor, weight: float, importance: Tensor | None) -> Tensor:
    """How far X [m, r] moves to minimise ½|X - X⁺|² + ½ w |F^½ ∘ (XY - X0 Y0)|², with Y [r, n] given."""
    rank = len(y)
    eye = torch.eye(rank, dtype=x.dtype, device=x.device)
    if importance is None:
        gradient = x @ (y @ y.T) - x0 @ (y0 @ y.T)
        even: Tensor = torch.linalg.solve(eye + weight * (y @ y.T), weight * gradient, left=False)
        return even
    gradient = ((x @ y - x0 @ y0) * importance) @ y.T
    pairs = (y[:, None, :] * y[None, :, :]).reshape(rank * rank, -1)
    curvature = (importance @ pairs.T).view(-1, rank, rank)
    weighed: Tensor = torch.linalg.solve(eye + weight * curvature, weight * gradient)
    return weighed
