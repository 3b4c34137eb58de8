"""AdaLoRA: LoRA as singular triples, of which those that matter least are given up while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from peft import AdaLoraConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from holdfast._errors import BadInput
from holdfast.adapters.lora import check_rank
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.targets import Targets, target_modules
from holdfast.adapters.wrapping import transposed, wrapped
from holdfast.rule import Batch, Rule, State

if TYPE_CHECKING:
    from holdfast.run import Run

UNHEARD = 1e-30
"""PEFT's own weight of the orthogonality, which it wants above zero and adds where nobody trains."""

MEMORY = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What PEFT's allocator remembers of each factor, under its own names."""


class Allocation(Rule):
    """Leaves ranks to the layers that use them, after every step: PEFT's schedule, at home among the rules.

    A step in which another rule holds a factor still is passed over, for the factors are compared with one another. A
    penalty keeps the singular vectors orthogonal: `orthogonal` times the mean over all factors of |P'P - I| and
    |QQ' - I| (Frobenius). PEFT itself adds it to every loss, also where a model is only asked, once per micro-batch.
    """

    def __init__(self, orthogonal: float = 0.5):
        self.orthogonal = orthogonal

    def begin(self, run: Run) -> None:
        """Hang on the optimiser: the allocator needs the gradients of the step that was just made."""
        model: Any = run.model
        self._tuner = getattr(model, "module", model).base_model
        self._factors = [p for n, p in self._tuner.named_parameters() if "lora_" in n and p.requires_grad]
        self._vectors = [(n, p) for n, p in self._tuner.named_parameters() if "lora_A" in n or "lora_B" in n]
        self._ranks: Any = None
        self._handle = run.optimizer.register_step_post_hook(lambda *_: self._allocate(run))

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor:
        """The departure from orthogonality; the host divides it by the number of micro-batches."""
        found = [_apart(p if "lora_A" in n else p.T) for n, p in self._vectors]
        return self.orthogonal * torch.stack(found).mean()

    def _allocate(self, run: Run) -> None:
        if all(p.grad is not None for p in self._factors):
            # PEFT saves an adapter cut to the ranks that its config names, and a cut one cannot train on.
            self._config.rank_pattern = self._ranks
            with run.uncast():
                self._tuner.update_and_allocate(run.step)
            self._ranks, self._config.rank_pattern = self._config.rank_pattern, None

    def end(self, run: Run) -> None:
        """Let go of the optimiser; from now on the adapter is saved with the ranks that are left."""
        if hasattr(self, "_handle"):
            self._handle.remove()
            if not run.interrupted:
                self._config.rank_pattern = self._ranks

    def state(self) -> State:
        """What the allocator remembers of each factor, and which ranks it has left."""
        memory = {kind: dict(getattr(self._tuner.rankallocator, kind)) for kind in MEMORY}
        return {"memory": memory, "ranks": self._ranks}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        """Hang on again where a run is resumed, and remember what was remembered."""
        if prepared is not None:
            self.begin(run)
        for kind, held in state["memory"].items():
            setattr(self._tuner.rankallocator, kind, {n: _beside(self._tuner, t) for n, t in held.items()})
        self._ranks = state["ranks"]

    @property
    def _config(self) -> Any:
        return self._tuner.peft_config[self._tuner.trainable_adapter_name]


def _apart(rows: Tensor) -> Tensor:
    """How far the rows of a matrix are from orthonormal, |R R' - I|."""
    apart: Tensor = torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows), device=rows.device))
    return apart


def _companion(arguments: Mapping[str, Any]) -> Allocation:
    return Allocation(arguments.get("orthogonal", 0.5))


def _beside(tuner: Any, tensor: Tensor) -> Tensor:
    return tensor.to(next(tuner.parameters()).device)


@methods.register("adalora", Traits(companion=_companion, kind="ADALORA", continues=False))
def adalora(
    model: PreTrainedModel,
    *,
    rank: int = 8,
    start: int | None = None,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Targets = "mlp",
    layers: str | None = None,
    warmup: float = 0.1,
    final: float = 0.3,
    every: int = 1,
    orthogonal: float = 0.5,
    steps: int = 0,
    seed: int = 0,
) -> PeftModel:
    """Each target gets P diag(e) Q of rank `start` (1.5 x `rank` unless told); on average `rank` of each is left.

    Ranks are given up every `every` steps between the first `warmup` and the last `final` share of `steps`, those of
    the smallest smoothed sensitivity |w dL/dw| first. `orthogonal` weighs |PᵀP - I|² + |QQᵀ - I|² in the loss. `alpha`
    is twice the rank unless told; targets and layers as in `lora`. Raises BadInput for settings out of range, where
    `steps` is not known, and as `lora`. Zhang et al. (2023), arXiv:2303.10512.
    """
    start = max(rank + 1, round(1.5 * rank)) if start is None else start
    shares = 0 <= warmup < 1 - final <= 1 and 0 <= dropout < 1 and orthogonal >= 0
    if not 1 <= rank <= start or not shares or every < 1:
        raise BadInput(
            f"adalora: 1 <= rank <= start, warmup + final < 1, every >= 1 and 0 <= dropout < 1; not rank {rank}, start "
            f"{start}, warmup {warmup}, final {final}, every {every}, dropout {dropout}."
        )
    if steps < 1:
        raise BadInput("adalora: its schedule needs to know the number of steps; a recipe tells it, else give `steps`.")
    names = target_modules(model, targets, layers)
    check_rank(model, names, start)
    settings = {
        "target_r": rank,
        "init_r": start,
        "lora_alpha": 2 * rank if alpha is None else alpha,
        "lora_dropout": dropout,
        "target_modules": names,
        "fan_in_fan_out": transposed(model, names),
        "tinit": int(warmup * steps),
        "tfinal": int(final * steps),
        "deltaT": every,
        "orth_reg_weight": UNHEARD,
        "total_step": steps,
    }
    return wrapped(model, AdaLoraConfig, settings, seed)
