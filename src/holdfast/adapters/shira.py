"""SHiRA: a few weights of each target, drawn at random, train; all others stay."""

from __future__ import annotations

from peft import PeftModel, ShiraConfig
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.lora import check_rank
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.targets import Targets, target_modules
from holdfast.adapters.wrapping import on_meta, wrapped


@methods.register("shira", Traits(kind="SHIRA"))
def shira(
    model: PreTrainedModel, *, rank: int = 8, targets: Targets = "mlp", layers: str | None = None, seed: int = 0
) -> PeftModel:
    """As many weights of each target as LoRA of that rank would add, `rank` x (in + out), chosen by `seed`.

    The change is sparse and of full rank, and starts at zero. Targets and layers as in `lora`, nn.Linear only. Raises
    BadInput as `lora`, Unsupported for GPT-2's Conv1D. Bhardwaj et al. (2024), arXiv:2406.13175.
    """
    if rank < 1:
        raise BadInput(f"shira: rank >= 1, not {rank}.")
    names = target_modules(model, targets, layers)
    if any(isinstance(model.get_submodule(name), Conv1D) for name in names):
        raise Unsupported("shira: PEFT takes linear layers only, and these weights are Conv1D. Use another method.")
    check_rank(model, names, rank)
    drawn = None if on_meta(model) else seed
    return wrapped(model, ShiraConfig, {"r": rank, "random_seed": drawn, "target_modules": names}, seed)
