"""The guide's two troubles: what was known is forgotten, and what is learnt is learnt by heart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast._errors import BadInput, UnknownName
from holdfast.params.weights import Values, copied, write
from holdfast.remedies.l2sp import L2SP

Weights = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] | nn.Module
"""Present weights: by name, in pairs with their names, or a model that has them."""


class CatastrophicForgettingHandler:
    """Remembers a model's weights and says how far others are from them.

    `original_weights` are copies of all parameters by name, also of those that do not train.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.original_weights: Values = copied(dict(model.named_parameters()))

    def regularization_loss(self, current_weights: Weights) -> Tensor:
        """The sum over the tensors given of the mean squared difference, a scalar to add to the loss, times a strength.

        Raises UnknownName for a name that the model did not have, and BadInput for another shape or no weights at all.
        """
        given = current_weights
        named = dict(given.named_parameters() if isinstance(given, nn.Module) else given)
        parts = [functional.mse_loss(value, self._original(name, value)) for name, value in named.items()]
        if not parts:
            raise BadInput("There are no weights to compare: give them by name, or the model.")
        return torch.stack([part.to(parts[0].device) for part in parts]).sum()

    def rule(self, strength: float = 1.0) -> L2SP:
        """The same end as a rule for `TrainingPipeline`, `holdfast.Trainer` and `attach`: a pull to the start.

        L2-SP minimises ½ `strength` |w - start|² of all that trains, by an exact step after the optimiser's instead of
        a penalty that Adam would rescale, and stable at any strength. All weights count alike; in the mean of the
        guide one of a small tensor counts more. The start is the model that the run begins with.
        """
        return L2SP(strength)

    def _original(self, name: str, value: Tensor) -> Tensor:
        if name not in self.original_weights:
            raise UnknownName("weight", name, self.original_weights)
        original = self.original_weights[name]
        if original.shape != value.shape:
            raise BadInput(f"{name} was {tuple(original.shape)} and is {tuple(value.shape)}: that is another weight.")
        return original.to(value.device, value.dtype)


class OverfittingHandler:
    """Says when to stop: after `patience` looks in a row at which the validation loss did not get better.

    Better is lower by more than `min_delta`; a loss that is no number is not. What trains is copied at each best look,
    and `restore_best` brings it back. Raises BadInput for a patience below 1.
    """

    def __init__(self, model: nn.Module, patience: int = 3, *, min_delta: float = 0.0):
        if patience < 1 or not 0 <= min_delta < math.inf:
            raise BadInput(f"patience is at least 1 and min_delta at least 0, not {patience} and {min_delta}.")
        self.model, self.patience, self.min_delta = model, patience, min_delta
        self.best_loss = float("inf")
        self.wait = 0
        self.best_weights: Values = {}

    def check_early_stopping(self, val_loss: float | Tensor) -> bool:
        """Take one validation loss; whether to stop."""
        loss = float(val_loss)
        if math.isfinite(loss) and loss < self.best_loss - self.min_delta:
            self.best_loss, self.wait = loss, 0
            self.best_weights = copied(self._trained())
            return False
        self.wait += 1
        return self.wait >= self.patience

    def restore_best(self) -> float:
        """Bring the weights of the best look back; its loss. Raises BadInput where there was none."""
        if not self.best_weights:
            raise BadInput("No validation loss was a number yet, so there is nothing to go back to.")
        write(dict(self.model.named_parameters()), self.best_weights)
        return self.best_loss

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}
