"""LN tuning: the weights of the norms are all that trains."""

from __future__ import annotations

from peft import LNTuningConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel

from holdfast.adapters.method import Traits, methods
from holdfast.adapters.targets import target_modules
from holdfast.adapters.wrapping import wrapped


@methods.register("ln", Traits(rate=100.0, kind="LN_TUNING"))
def ln(model: PreTrainedModel, *, layers: str | None = None, seed: int = 0) -> PeftModel:
    """A copy of every norm (in the chosen `layers`) trains in its place, so the model starts as the base.

    Nothing is drawn, and `seed` changes nothing. Raises UnmatchedSelect and BadInput for layers without norms.
    Zhao et al. (2023), arXiv:2312.11420.
    """
    names = target_modules(model, "norm", layers, kind=_plain, what="norm")
    return wrapped(model, LNTuningConfig, {"target_modules": names}, seed)


def _plain(module: nn.Module) -> bool:
    """Modules with weights of their own and none below them."""
    return any(True for _ in module.parameters(recurse=False)) and not any(True for _ in module.children())
