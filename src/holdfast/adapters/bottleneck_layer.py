"""Bottleneck adapters as a tuner of PEFT: PeftModel saves, loads, switches and deletes them like its own."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from holdfast._errors import BadInput, UnknownName, Unsupported


class TunerType(str, enum.Enum):  # noqa: UP042  a StrEnum prints itself otherwise than PEFT's own, and PEFT reads that
    """Stands where PEFT has its PeftType, which nobody can add to; equal to its own text, as those are."""

    BOTTLENECK = "BOTTLENECK"


NAME: Any = TunerType.BOTTLENECK


@dataclass
class BottleneckConfig(PeftConfig):
    """What is behind each of `target_modules`: a layer down to `size` units, an activation, a layer back up.

    `activation` is one of transformers' names (`relu`, `gelu`, `silu`), `dropout` falls on what the adapter adds.
    `target_modules` are names or paths of modules, or a regular expression, as everywhere in PEFT; those that are not
    linear have to give hidden states as wide as the model. `modules_to_save` train whole, in a copy beside the base's.
    Raises BadInput for a size or dropout out of range, UnknownName for the activation.
    """

    size: int = 64
    activation: str = "relu"
    dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    peft_type: Any = field(default=NAME)

    def __post_init__(self) -> None:
        """Check what was given, and be what the name says, whatever a file says."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = NAME
        if self.size < 1 or not 0 <= self.dropout < 1:
            raise BadInput(f"bottleneck: size >= 1 and 0 <= dropout < 1; not {self.size} and {self.dropout}.")
        if self.activation not in ACT2FN:
            raise UnknownName("activation", self.activation, ACT2FN)

    def to_dict(self) -> dict[str, Any]:
        """The settings, with names in an order that does not change from one process to the next."""
        return {k: sorted(v) if isinstance(v, set) else v for k, v in super().to_dict().items()}


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A module and what stands behind it: its output h [..., width] becomes h + up(act(down(h))), with `up` at zero.

    Of a module that returns a tuple the first is h. Several active adapters stand one behind the other. Weights are
    float32, or as wide as the base's; h comes back in the type in which it came.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_activation", "bottleneck_up")
    other_param_names = ("bottleneck_dropout",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, width: int):
        super().__init__()
        self.base_layer, self.width = base_layer, width
        self.bottleneck_down, self.bottleneck_activation = nn.ModuleDict(), nn.ModuleDict()
        self.bottleneck_up, self.bottleneck_dropout = nn.ModuleDict(), nn.ModuleDict()
        self._disable_adapters, self.merged_adapters = False, []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Put one more adapter here: `down` drawn as in He et al. (2022), arXiv:2110.04366, `up` and biases zero."""
        down, up = nn.Linear(self.width, config.size), nn.Linear(config.size, self.width)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.bottleneck_activation[adapter_name] = ACT2FN[config.activation]
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """PEFT's own would round the weights to the base's type first, where that is a narrow one."""
        weight = next(self.base_layer.parameters())
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        for part in self.adapter_layer_names:
            module = getattr(self, part)[adapter_name]
            if not any(p.is_meta for p in module.parameters()):
                module.to(device=device or weight.device, dtype=dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, with the active adapters behind it."""
        given = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return given
        hidden, *rest = given if isinstance(given, tuple) else (given,)
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                hidden = self._behind(name, hidden)
        return (hidden, *rest) if isinstance(given, tuple) else hidden

    def _behind(self, name: str, hidden: Tensor) -> Tensor:
        down: Any = self.bottleneck_down[name]
        inner = self.bottleneck_activation[name](down(self._cast_input_dtype(hidden, down.weight.dtype)))
        added: Tensor = self.bottleneck_dropout[name](self.bottleneck_up[name](inner))
        return (hidden + added).to(hidden.dtype)


class BottleneckModel(BaseTuner):
    """The tuner behind PeftModel: puts the layers in their places. What they add cannot be merged into weights."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  PEFT declares it so

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config, self._width(target, current_key))
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _width(self, target: nn.Module, path: str) -> int:
        config: Any = getattr(self.model, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        width = widths(target)[1] or getattr(text, "hidden_size", None)
        if width is None or not any(True for _ in target.parameters()):
            raise BadInput(f"bottleneck: {path} ({type(target).__name__}) is no layer with weights and a known width.")
        return int(width)

    def _check_merge_allowed(self) -> None:
        raise Unsupported(
            "Bottleneck adapters are not linear, so no weight can take them in. Keep the adapter beside its base "
            "(`save_pretrained`), or take it off with `unload()`."
        )


def widths(module: nn.Module) -> tuple[int | None, int | None]:
    """Features that a linear layer takes and gives, by its own word; None and None for any other module."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else (None, None)


PEFT_TYPE_TO_CONFIG_MAPPING[NAME] = BottleneckConfig
PEFT_TYPE_TO_TUNER_MAPPING[NAME] = BottleneckModel
PEFT_TYPE_TO_PREFIX_MAPPING[NAME] = BottleneckModel.prefix
