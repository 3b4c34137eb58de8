"""O-LoRA: what is learnt now stays orthogonal to the inputs that earlier adapters listen to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from holdfast._errors import BadInput, Unsupported
from holdfast.before import Base
from holdfast.params.inventory import Param
from holdfast.remedies.carried import plain, weighed
from holdfast.rule import Batch, Rule, State, rules
from holdfast.run import Run

Adapter = str | Path | Mapping[str, Tensor]
"""A folder that PEFT saved a LoRA adapter to, or factors A [rank, in] by the path of the weight they were added to."""


@rules.register("olora")
class OLoRA(Rule):
    """Adds strength * Σ |A_old A^T|² over all layers and earlier adapters, squared element by element.

    A [rank, in] is the factor that trains and A_old that of an earlier adapter on the same weight: those in `adapters`,
    and those that stand in the model beside the one that trains (PEFT: loaded and frozen). The rows of A_old span the
    inputs that the earlier task changed; a movement that is orthogonal to them leaves the answers to those alone. Where
    a whole weight trains, its movement from the start of the run takes the place of A. The earlier adapters have to
    be part of the model: merged into it, or active and frozen. A gets small as well under this penalty, which is no
    merit of it: look at what is learnt. Wang et al. (2023), arXiv:2310.14152; their code sums absolute values instead.
    """

    def __init__(self, adapters: Sequence[Adapter] = (), strength: float = 0.5):
        if strength < 0:
            raise BadInput(f"olora: strength must not be negative, got {strength}.")
        self.strength: float = strength
        self.adapters = adapters
        self.earlier: dict[str, Tensor] = {}
        self._base: Base | None = None

    def begin(self, run: Run) -> None:
        if any(isinstance(t, DTensor) for t in run.tensors.values()):
            raise Unsupported("olora multiplies whole factors, which FSDP2 splits; use plain data parallel.")
        known = [*(_factors(adapter) for adapter in self.adapters), *_standing(run.model)]
        for name, param in _free(run):
            path, width = plain(weighed(param)), _inputs(run, name).shape[1]
            rows = [factors[path].detach() for factors in known if path in factors]
            if any(r.shape[1:] != (width,) for r in rows):
                raise BadInput(f"olora: an earlier adapter on {path} has other inputs than the {width} of this model.")
            if _is_a(param) and any(torch.equal(r.to(run.tensors[name]), run.tensors[name]) for r in rows):
                raise BadInput(
                    f"olora: an earlier adapter has the very factor that trains, {name}, so that it would be held "
                    "apart from itself. Merge earlier adapters into the model, and begin a new one."
                )
            if rows:
                self.earlier[name] = torch.cat([r.to(run.tensors[name]) for r in rows])
        if not self.earlier:
            raise BadInput(
                "olora: no earlier adapter has a factor A on a weight that trains. Name their folders, "
                "`adapters`, or load them into the model beside the one that trains."
            )
        self._base = run.base

    def prepared(self) -> State:
        return {"earlier": self.earlier}

    def restore(self, run: Run, prepared: State | None, state: State) -> None:
        if prepared is not None:
            self.earlier = {n: t.to(run.tensors[n].device) for n, t in prepared["earlier"].items()}
        self._base = run.base

    def penalty(self, run: Run, batch: Batch, outputs: Any) -> Tensor | None:
        assert self._base is not None
        with run.uncast():
            terms = [(self._moved(run, name) @ old.T).square().sum() for name, old in self.earlier.items()]
        return self.strength * torch.stack(terms).sum()

    def end(self, run: Run) -> None:
        self.earlier, self._base = {}, None

    def _moved(self, run: Run, name: str) -> Tensor:
        """What trains, as [anything, inputs]: A itself, or the way of a whole weight."""
        if run.params[name].lora is not None:
            return _inputs(run, name)
        assert self._base is not None
        way = run.tensors[name] - self._base.values[name]
        return way.T if _conv1d(run, name) else way


def _free(run: Run) -> list[tuple[str, Param]]:
    """The tensors that decide which inputs are listened to: factors A, and whole matrices."""
    return [(n, p) for n, p in run.params.items() if (p.lora is None and len(p.shape) == 2) or _is_a(p)]


def _is_a(param: Param) -> bool:
    return param.lora is not None and param.lora.side == "A"


def _inputs(run: Run, name: str) -> Tensor:
    """A tensor with its inputs as columns."""
    tensor = run.tensors[name]
    return tensor.T if run.params[name].lora is None and _conv1d(run, name) else tensor


def _conv1d(run: Run, name: str) -> bool:
    """Whether a weight is stored [in, out], as in GPT-2."""
    return type(run.model.get_submodule(name.rpartition(".")[0])).__name__ == "Conv1D"


def _standing(model: nn.Module) -> list[dict[str, Tensor]]:
    """Factors A in the model that do not train, for each adapter by the plain path of the weight."""
    found: dict[str, dict[str, Tensor]] = {}
    for path, module in model.named_modules():
        factors = getattr(module, "lora_A", None)
        for name, factor in factors.items() if isinstance(factors, nn.ModuleDict) else ():
            if isinstance(factor, nn.Linear) and not factor.weight.requires_grad:
                found.setdefault(name, {})[plain(f"{path}.weight")] = factor.weight
    return list(found.values())


def _factors(adapter: Adapter) -> dict[str, Tensor]:
    """Factors A by the plain path of their weight."""
    if isinstance(adapter, Mapping):
        return {plain(path): t for path, t in adapter.items()}
    file = Path(adapter) / "adapter_model.safetensors"
    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"olora: {file} cannot be read ({error}). Name the folder of an adapter that PEFT saved."
        ) from None
    ending = ".lora_A.weight"
    return {plain(n.removesuffix(ending) + ".weight"): t for n, t in stored.items() if n.endswith(ending)}
