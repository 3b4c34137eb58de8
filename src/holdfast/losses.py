"""The losses of one step: added up for the rules that ask, and known to be finite before anything moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Losses:
    """Notes the loss of each micro-batch on its device, so that nothing waits for a figure before the step is due."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._finite: Tensor | None = None

    def note(self, loss: Tensor) -> None:
        """Take a micro-batch's part in, a scalar."""
        finite = torch.isfinite(loss).all()
        self._sum = loss if self._sum is None else self._sum + loss
        self._finite = finite if self._finite is None else self._finite & finite

    def finite(self, agreed: Callable[[Tensor], Tensor]) -> bool:
        """Whether all since the last question were finite, in every process; `agreed` is the mean over them."""
        finite, self._finite = self._finite, None
        return finite is None or bool(agreed(finite.float()) == 1)

    def taken(self) -> Tensor | None:
        """The sum since it was last taken, None where no loss was noted."""
        total, self._sum = self._sum, None
        return total


def loss_in(outputs: Any) -> Tensor | None:
    """The loss that a model's outputs hold, if they do."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    return loss.detach() if isinstance(loss, Tensor) else None
