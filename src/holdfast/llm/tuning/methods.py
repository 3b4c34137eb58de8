"""The guide's methods: all weights or few, LoRA, bottleneck adapters and QLoRA."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from holdfast._errors import BadInput
from holdfast.adapters.bottleneck_layer import BottleneckLayer
from holdfast.adapters.method import methods
from holdfast.adapters.targets import Targets, target_modules
from holdfast.base import load_base
from holdfast.llm.tuning.tuned import ALL, Tuned

logger = logging.getLogger(__name__)


class FineTuningTypes:
    """The two kinds of fine-tuning: every weight learns, or a few beside those of the model."""

    @staticmethod
    def full_fine_tuning(model: PreTrainedModel | None = None) -> Any:
        """The same model, every parameter of which trains; the embedded base where none is given.

        The most memory (gradients and optimiser state for every weight), and usually the best fit to the new task.
        """
        return _told(methods.apply("full", _given(model), {}))

    @staticmethod
    def parameter_efficient_fine_tuning(
        model: PreTrainedModel | None = None,
        method: str = "lora",
        arguments: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
    ) -> Any:
        """The model with what a method adds or chooses, which alone trains; the embedded base where none is given.

        `method` and `arguments` are those of a recipe (`holdfast.adapters`). Raises UnknownName for others.
        """
        return _told(methods.apply(method, _given(model), dict(arguments or {}), seed=seed))


class LoRALayer(nn.Module):
    """x [..., in_dim] becomes s up(down(x)) [..., out_dim], of the given rank, with `up` at zero.

    s is `alpha` / `rank`, and 1 unless told. `down` is drawn as torch draws a linear layer. Raises BadInput for a rank
    that is below 1 or above a dimension. Hu et al. (2021), arXiv:2106.09685.
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int = 4, *, alpha: float | None = None):
        super().__init__()
        if not 1 <= rank <= min(in_dim, out_dim):
            raise BadInput(f"A rank is at least 1 and at most {min(in_dim, out_dim)} here, not {rank}.")
        self.down = nn.Linear(in_dim, rank, bias=False)
        self.up = nn.Linear(rank, out_dim, bias=False)
        self.scale = 1.0 if alpha is None else alpha / rank
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added to the layer's own answer."""
        added: Tensor = self.up(self.down(x))
        return added * self.scale


class LoRAModel(Tuned):
    """A model with LoRA on every linear layer but the head, each factor reading what its own layer reads.

    `targets` names other layers, by a selection or by names; `alpha` is the rank unless told, so that the product is
    added as it is. Further arguments and errors as for the method `lora` and for `Tuned`.
    """

    name = "lora"

    def __init__(
        self,
        base_model: PreTrainedModel,
        rank: int = 4,
        *,
        targets: Targets = ALL,
        alpha: float | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ):
        arguments = {"rank": rank, "targets": targets, "alpha": rank if alpha is None else alpha, "dropout": dropout}
        super().__init__(base_model, arguments, seed)

    @property
    def lora_layers(self) -> dict[str, LoRALayer]:
        """The product beside each layer, by the layer's path; its weights are the model's own, and train with it."""
        return dict(_products(self.base_model))


class QLoRA(Tuned):
    """LoRA as in `LoRAModel` on a copy of the model whose linear layers are stored in `bits` (4 or 8) and never move.

    Head and embedding are not quantised, and the model that was given stays as it is. A model that was loaded
    quantised is taken without a copy. Raises MissingExtra without bitsandbytes, BadInput for other bits; further
    arguments as for the method `qlora`. Dettmers et al. (2023), arXiv:2305.14314.
    """

    name = "qlora"

    def __init__(
        self,
        model: PreTrainedModel,
        bits: int = 4,
        rank: int = 8,
        *,
        targets: Targets = ALL,
        alpha: float | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ):
        arguments = {
            "bits": bits,
            "rank": rank,
            "targets": targets,
            "alpha": rank if alpha is None else alpha,
            "dropout": dropout,
        }
        super().__init__(model, arguments, seed)

    @property
    def lora(self) -> dict[str, LoRALayer]:
        """The product beside each layer, as in `LoRAModel.lora_layers`."""
        return dict(_products(self.base_model))


class Adapter(nn.Module):
    """x [..., input_dim] becomes x + up(relu(down(x))), with `up` at zero: at first it changes nothing.

    `down` is drawn as torch draws a linear layer. Raises BadInput for sizes below 1. Houlsby et al. (2019),
    arXiv:1902.00751.
    """

    def __init__(self, input_dim: int, hidden_dim: int):
        super().__init__()
        if min(input_dim, hidden_dim) < 1:
            raise BadInput(f"An adapter has at least one unit on each side, not {input_dim} and {hidden_dim}.")
        self.down = nn.Linear(input_dim, hidden_dim)
        self.up = nn.Linear(hidden_dim, input_dim)
        self.act = nn.ReLU()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The input with what was learnt added to it."""
        added: Tensor = self.up(self.act(self.down(x)))
        return x + added


class AdapterModel(Tuned):
    """A model with an adapter of `hidden_dim` units behind every linear layer but the head.

    With `style` there are fewer: `houlsby` puts them behind attention and MLP of each block, `pfeiffer` behind the MLP
    alone, as the papers do. Errors as for the method `bottleneck` and for `Tuned`.
    """

    name = "bottleneck"

    def __init__(self, base_model: PreTrainedModel, hidden_dim: int = 64, *, style: str | None = None, seed: int = 0):
        places = {"targets": target_modules(base_model, ALL)} if style is None else {"style": style}
        super().__init__(base_model, {"size": hidden_dim, **places}, seed)

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The adapter behind each layer, by the layer's path; its weights are the model's own, and train with it."""
        return dict(_behind(self.base_model))


def _given(model: PreTrainedModel | None) -> PreTrainedModel:
    return load_base("tiny").model if model is None else model


def _told(model: Any) -> Any:
    """Say at INFO how much of a model trains."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    left, total = sum(n for n, free in counts if free), sum(n for n, _ in counts)
    logger.info("可训练参数量: %s / %s (%.2f%%)", f"{left:,}", f"{total:,}", 100 * left / total)
    return model


def _products(model: nn.Module) -> Iterator[tuple[str, LoRALayer]]:
    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            inputs, outputs, rank = (int(n or 0) for n in (layer.in_features, layer.out_features, layer.r["default"]))
            with torch.device("meta"):
                view = LoRALayer(inputs, outputs, rank, alpha=layer.scaling["default"] * rank)
            parts: Any = (layer.lora_A["default"], layer.lora_B["default"])
            view.down, view.up = parts
            yield path, view


def _behind(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    for path, layer in model.named_modules():
        if isinstance(layer, BottleneckLayer):
            down: Any = layer.bottleneck_down["default"]
            with torch.device("meta"):
                view = Adapter(down.in_features, down.out_features)
            view.down, view.up = down, layer.bottleneck_up["default"]  # type: ignore[assignment]
            yield path, view
