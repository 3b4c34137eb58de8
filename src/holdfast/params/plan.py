"""The freeze plan: what a selection would freeze and what that saves, known before anything trains or is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel

from holdfast._errors import BadInput
from holdfast.params.inventory import COMPONENTS, Param, inventory
from holdfast.params.select import Predicate, matched

STATES = 2  # AdamW keeps two moments of every trained element
STATE_BYTES = 4  # in float32
STEP_BYTES = 4  # and one float32 step count for every trained tensor


@dataclass(frozen=True)
class Cost:
    """Bytes that weights, gradients and AdamW's float32 state take; activations are not counted."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Plan:
    """What trains and what does not. `matched` is what the selection names; what was frozen before stays so."""

    select: Predicate | None
    params: tuple[Param, ...]
    matched: tuple[Param, ...]

    @property
    def trained(self) -> list[Param]:
        """The parameters that gradients reach and the optimiser moves."""
        named = {param.path for param in self.matched}
        return [param for param in self.params if param.trainable and param.path not in named]

    @property
    def count(self) -> int:
        """All elements."""
        return _elements(self.params)

    @property
    def frozen_count(self) -> int:
        """Elements that do not move."""
        return self.count - _elements(self.trained)

    @property
    def share(self) -> float:
        """Share of all elements that do not move, in [0, 1]."""
        return self.frozen_count / max(1, self.count)

    @property
    def cost(self) -> Cost:
        """Memory with the selection frozen."""
        return _cost(self.params, self.trained)

    @property
    def cost_before(self) -> Cost:
        """Memory without it."""
        return _cost(self.params, [param for param in self.params if param.trainable])

    @property
    def adapter_only(self) -> bool:
        """Whether a save writes the adapter alone, as PEFT does."""
        return any("adapter" in param.components for param in self.params)

    @property
    def saved_bytes(self) -> int:
        """Bytes of tensors that Hugging Face writes for the model: every parameter once, or PEFT's own alone.

        Frozen weights are written as well. Not counted: the optimiser state that a resumable checkpoint adds
        (`cost.optimizer`), and the whole embedding that PEFT adds when an adapter targets it.
        """
        written = [p for p in self.params if "adapter" in p.components] if self.adapter_only else self.params
        return sum(param.bytes for param in written)


def plan(model: nn.Module | Sequence[Param], select: Predicate | None = None) -> Plan:
    """Plan the freezing of a selection, nothing more if there is none; changes nothing.

    Takes a model (also on the meta device, see `from_config`) or its inventory; raises UnmatchedSelect.

    >>> from transformers import LlamaConfig
    >>> from holdfast.params.select import component
    >>> llama = from_config(LlamaConfig(num_hidden_layers=4, tie_word_embeddings=False))
    >>> planned = plan(llama, component("embedding") | component("head"))
    >>> f"{planned.count:,} {planned.share:.1%} {planned.cost.optimizer:,}"
    '1,071,681,536 24.5% 6,476,300,436'
    """
    params = inventory(model) if isinstance(model, nn.Module) else list(model)
    return Plan(select, tuple(params), tuple(matched(select, params) if select else ()))


def freeze(model: nn.Module, select: Predicate) -> Plan:
    """Freeze a selection in place and return its plan; raises UnmatchedSelect and then changes nothing.

    Turns `requires_grad` off and lets go of the gradient. An optimiser that already holds the parameters may still move
    them by weight decay: build it afterwards, or hold them with the rule `frozen`.
    """
    planned = plan(model, select)
    parameters = dict(model.named_parameters())
    for param in planned.matched:
        parameters[param.path].requires_grad_(False).grad = None
    return planned


def from_config(config: PretrainedConfig, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a config on the meta device: names and shapes without memory, whatever its size.

    The class is the one that the config names in `architectures`, else a causal or encoder-decoder language model.
    `dtype` is the type that the weights would train in. Raises BadInput for a config that is not a language model's.
    """
    try:
        with torch.device("meta"):
            model: PreTrainedModel = _builder(config)(config, dtype=dtype)
    except ValueError as error:
        raise BadInput(
            f"No language model can be built from a {type(config).__name__}: it names no architecture that this "
            f"transformers ({transformers.__version__}) has. Give a config whose `architectures` is a language model."
        ) from error
    return model


def _builder(config: PretrainedConfig) -> Any:
    named = getattr(transformers, next(iter(config.architectures or ()), ""), None)
    if isinstance(named, type) and issubclass(named, PreTrainedModel):
        return named._from_config
    return (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config


def render_plan(plan: Plan, console: Console) -> None:
    """Print a plan: parameters by component, memory with and without the selection, and the matched names."""
    console.print(_components(plan))
    console.print(_memory(plan))
    if plan.select is not None:
        count = len(plan.matched)
        said = f"{plan.select} matches {count} {'tensor' if count == 1 else 'tensors'}, shown here as frozen"
        console.print(said, style="italic", markup=False, highlight=False)
        console.print(_names(plan))
        if any({"embedding", "head"} <= param.components for param in plan.matched):
            console.print("Embedding and head are one tensor in this model: what freezes one freezes both.")


def _headline(plan: Plan) -> str:
    if not plan.frozen_count:
        return f"{plan.count:,} parameters, none frozen"
    moving = plan.count - plan.frozen_count
    return f"{plan.count:,} parameters, {moving:,} train ({1 - plan.share:.1%}), {plan.share:.1%} frozen"


def _components(plan: Plan) -> Table:
    trained = {param.path for param in plan.trained}
    table = Table("component", title=_headline(plan), title_justify="left")
    for heading in ("tensors", "parameters", "share", "frozen"):
        table.add_column(heading, justify="right")
    for component in COMPONENTS:
        if members := [param for param in plan.params if param.component == component]:
            count = _elements(members)
            still = _elements(param for param in members if param.path not in trained)
            tied = " (tied to the head)" * any(len(param.components - {"adapter"}) > 1 for param in members)
            share = f"{count / plan.count:.1%}"
            table.add_row(component + tied, str(len(members)), f"{count:,}", share, f"{still / max(1, count):.0%}")
    return table


def _memory(plan: Plan) -> Table:
    before, after, disk = plan.cost_before, plan.cost, plan.saved_bytes
    table = Table("memory and disk", title="Without activations", title_justify="left")
    for heading in ("as it is", "frozen as planned", "saved")[: 1 if plan.select is None else 3]:
        table.add_column(heading, justify="right")
    for label, old, new in (
        ("weights", before.weights, after.weights),
        ("gradients", before.gradients, after.gradients),
        ("optimiser (AdamW, float32)", before.optimizer, after.optimizer),
        ("together", before.total, after.total),
        ("saved adapter" if plan.adapter_only else "saved model", disk, disk),
        ("checkpoint to resume from", disk + before.optimizer, disk + after.optimizer),
    ):
        cells = (decimal(old), decimal(new), decimal(old - new) if old > new else "")
        table.add_row(label, *cells[: len(table.columns) - 1])
    return table


def _names(plan: Plan) -> Table:
    """One row for the names that differ in the block number only."""
    tensors, elements = Counter[str](), Counter[str]()
    for param in plan.matched:
        name = param.path.replace(f"{param.stack}.{param.layer}.", f"{param.stack}.*.", 1)
        tensors[name] += 1
        elements[name] += param.numel
    table = Table("matched")
    for heading in ("tensors", "parameters"):
        table.add_column(heading, justify="right")
    for name, count in tensors.items():
        table.add_row(name, str(count), f"{elements[name]:,}")
    return table


def _elements(params: Iterable[Param]) -> int:
    return sum(param.numel for param in params)


def _cost(params: Sequence[Param], trained: Sequence[Param]) -> Cost:
    return Cost(
        weights=sum(param.bytes for param in params),
        gradients=sum(param.bytes for param in trained),
        optimizer=STATES * STATE_BYTES * _elements(trained) + STEP_BYTES * len(trained),
    )
