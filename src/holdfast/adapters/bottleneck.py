"""Bottleneck adapters: a small network behind attention or MLP of each block, before the residual sum."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from holdfast._errors import BadInput, UnknownName
from holdfast.adapters.bottleneck_layer import BottleneckConfig, widths
from holdfast.adapters.method import Traits, methods
from holdfast.adapters.targets import blocks, is_linear, target_modules
from holdfast.adapters.wrapping import wrapped
from holdfast.params.inventory import Param, inventory

logger = logging.getLogger(__name__)

STYLES: dict[str, tuple[str, ...]] = {"pfeiffer": ("mlp",), "houlsby": ("attention", "mlp")}
"""Behind which parts of each block an adapter stands."""


@methods.register("bottleneck", Traits(merges=False, kind="BOTTLENECK"))
def bottleneck(
    model: PreTrainedModel,
    *,
    size: int = 64,
    style: str = "pfeiffer",
    activation: str = "relu",
    dropout: float = 0.0,
    layers: str | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
) -> PeftModel:
    """Put h + up(act(down(h))) behind parts of each block, where h [..., width] is what the part gives.

    `size` is the number of units in between, `activation` one of transformers' names, and `dropout` falls on what is
    added. In the style `houlsby` an adapter stands behind every attention and every MLP of a block (Houlsby et al.
    2019, arXiv:1902.00751), in the style `pfeiffer` behind the MLP alone (Pfeiffer et al. 2021, arXiv:2005.00247):
    right behind the layer that leads back to the residual stream, before dropout, norm and sum. `layers` is a selection
    that narrows them (`layers(50%:)`). `targets` are names of modules to stand behind instead, of any kind that gives
    hidden states (`[mlp]` for a mixture of experts as a whole). `up` starts at zero and `down` is drawn from `seed`, so
    the model starts as the base, bit for bit, and no other random state moves. The adapter cannot be merged.

    Raises BadInput for a size or dropout out of range and for blocks where no such layer is found, UnknownName for a
    style or activation, UnmatchedSelect for names and selections that match nothing, with the nearest.
    """
    if style not in STYLES:
        raise UnknownName("style of bottleneck adapters", style, STYLES)
    names = projections(model, STYLES[style], layers) if targets is None else _named(model, targets, layers)
    settings = {"size": size, "activation": activation, "dropout": dropout, "target_modules": names}
    made = wrapped(model, BottleneckConfig, settings, seed)
    logger.info("Bottleneck adapters of size %d behind %d modules: %s", size, len(names), ", ".join(names))
    return made


def projections(model: nn.Module, parts: Sequence[str], layers: str | None = None) -> list[str]:
    """Paths of the linear layers that end the attention or MLP (`parts`) of each block, in the model's order.

    Found by structure: of all linear layers of one attention module, or of a block's MLP, the last one gives as many
    features as the first one takes. `layers` is a selection: a part counts where it names a weight of it.

    Raises BadInput for a part that is not made like that, such as a mixture of experts.
    """
    chosen = set(blocks(model, layers))
    regions: dict[tuple[str, str], list[Param]] = defaultdict(list)
    for param in inventory(model):
        if param.layer is not None and param.component in parts:
            regions[param.component, _region(model, param)].append(param)
    kept = {key: params for key, params in regions.items() if any(p.path in chosen for p in params)}
    if not kept:
        where = "of the model's blocks" if layers is None else f"that {layers} names"
        raise BadInput(f"bottleneck: there is no {' or '.join(parts)} {where}. Name modules in `targets`.")
    return [_end(model, part, path, params) for (part, path), params in kept.items()]


def _region(model: nn.Module, param: Param) -> str:
    """The block, for its MLP; for attention, of which a block may have two, the outermost module of its own."""
    path = f"{param.stack}.{param.layer}"
    if param.component == "attention":
        names = iter(param.path[len(path) + 1 :].split(".")[:-1])
        for name in names:
            path = f"{path}.{name}"
            if not isinstance(model.get_submodule(path), nn.ModuleList | nn.ModuleDict) and not name.isdigit():
                break
    return path


def _end(model: nn.Module, part: str, path: str, params: Sequence[Param]) -> str:
    owners = dict.fromkeys(param.path.rpartition(".")[0] for param in params)
    linear = [owner for owner in owners if is_linear(model.get_submodule(owner))]
    # Experts are stacked in one tensor, or numbered layers of one name.
    alone = len({re.sub(r"\.\d+(?=\.)", "", owner[len(path) :]) for owner in linear}) == len(linear)
    if linear and alone and all(len(param.shape) < 3 for param in params):
        first, last = model.get_submodule(linear[0]), model.get_submodule(linear[-1])
        if widths(first)[0] == widths(last)[1]:
            return linear[-1]
    near = ", ".join(dict.fromkeys(owner[len(path) + 1 :].partition(".")[0] for owner in owners))
    raise BadInput(
        f"bottleneck: the {part} in {path} does not end in one linear layer, as in a mixture of experts. Name the "
        f"modules to stand behind in `targets`; here there are {near}."
    )


def _named(model: nn.Module, targets: Sequence[str], layers: str | None) -> list[str]:
    names = target_modules(model, list(targets), kind=_gives_states, what="module")
    chosen = blocks(model, layers)
    kept = [name for name in names if any(path.startswith(f"{name}.") for path in chosen)]
    if not kept:
        raise BadInput(f"bottleneck: none of {', '.join(names)} lies within {layers}.")
    for outer in kept:
        if inner := next((name for name in kept if name.startswith(f"{outer}.")), None):
            raise BadInput(f"bottleneck: the target {inner} lies within the target {outer}. Name one of them.")
    return kept


def _gives_states(module: nn.Module) -> bool:
    """Whether a module computes something of its own, so that an adapter can stand behind it."""
    container = isinstance(module, nn.ModuleList | nn.ModuleDict | PreTrainedModel)
    return not container and any(True for _ in module.parameters())
