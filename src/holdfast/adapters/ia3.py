"""IA3: keys, values and the inner activations of the MLP are rescaled, each by a vector that is learnt."""

from __future__ import annotations

from typing import Any

from peft import IA3Config, PeftModel
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as USUAL
from transformers import PreTrainedModel

from holdfast._errors import BadInput
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.targets import Targets, target_modules
from holdfast.adapters.wrapping import transposed, wrapped


@methods.register("ia3", Traits(rate=100.0, kind="IA3"))
def ia3(
    model: PreTrainedModel, *, targets: Targets | None = None, layers: str | None = None, seed: int = 0
) -> PeftModel:
    """A vector of ones for each target: it scales the output of layers in attention, the input of those in the MLP.

    Unless told, `targets` are PEFT's for the kind of model (keys, values and the MLP's last layer); otherwise, and for
    `layers`, as in `lora`. Nothing is drawn, and `seed` changes nothing. Raises BadInput for a kind of model that PEFT
    does not know where no targets are named, and as `lora`. Liu et al. (2022), arXiv:2205.05638.
    """
    kind = model.config.model_type
    if targets is None and kind not in USUAL:
        raise BadInput(f"ia3: which layers of a {kind} to rescale is not known. Name them: targets: [k_proj, v_proj].")
    names = target_modules(model, USUAL[kind] if targets is None else targets, layers)
    inner = set(target_modules(model, "mlp"))
    settings: dict[str, Any] = {
        "target_modules": names,
        "feedforward_modules": [name for name in names if name in inner],
        "fan_in_fan_out": transposed(model, names),
    }
    return wrapped(model, IA3Config, settings, seed)
