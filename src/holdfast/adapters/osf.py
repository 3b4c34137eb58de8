"""OSF through PEFT: the strongest directions of each weight stay, and only the weak rest of it trains."""

from __future__ import annotations

from peft import OSFConfig, PeftModel
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.targets import Targets, target_modules
from holdfast.adapters.wrapping import wrapped


@methods.register("osf", Traits(rate=1.0, kind="OSF"))
def osf(
    model: PreTrainedModel, *, keep: float = 0.5, targets: Targets = "mlp", layers: str | None = None, seed: int = 0
) -> PeftModel:
    """Each target W = U S V in its singular directions: the `keep` share of them with the largest values is frozen.

    The rest trains as its own U, S and V, so the model starts as the base; nothing is drawn, and `seed` changes
    nothing. `targets` and `layers` as in `lora`, linear layers only. PEFT takes out of each gradient what lies in the
    frozen directions. Under Adam the movement leaves that subspace all the same, since scaling element by element comes
    after it; under SGD without weight decay it stays. Costs a singular value decomposition of each target, and about
    three times its size in memory at `keep` 0.5. Raises BadInput for a share outside (0, 1), Unsupported for GPT-2's
    Conv1D. Nayak et al. (2025), arXiv:2504.07097.
    """
    if not 0 < keep < 1:
        raise BadInput(f"osf: keep is the share of directions that stays, 0 < keep < 1, not {keep}.")
    names = target_modules(model, targets, layers)
    if any(isinstance(model.get_submodule(name), Conv1D) for name in names):
        raise Unsupported("osf: PEFT splits linear layers only, and these weights are Conv1D. Use another method.")
    return wrapped(model, OSFConfig, {"effective_rank": float(keep), "target_modules": names}, seed)
