"""Every parameter of a model: where it sits, what it is part of, what it is tied to, and what it weighs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from holdfast.params.lora import LoraFactor, lora_factors

Component = Literal["embedding", "attention", "mlp", "norm", "head", "adapter", "other"]
COMPONENTS: tuple[Component, ...] = ("embedding", "attention", "mlp", "norm", "head", "adapter", "other")

# Only where structure cannot tell. Attention has no shape of its own, so its module's class or attribute names it.
_ATTENTION = ("attention", "attn")
_MIXERS = ("mamba", "recurrent", "deltanet", "shortconv")  # neither attention nor MLP
# The change of width between embedding, blocks and head in OPT and ELECTRA.
_OUTSIDE: dict[str, Component] = {"project_in": "embedding", "embeddings_project": "embedding", "project_out": "head"}
_ADAPTERS = ("adaption_prompt", "adaption_gate", "prompt_encoder")  # PEFT methods that declare no adapter layer

_WHOLE = "modules_to_save"  # under this name PEFT keeps whole modules that it trains beside the adapter


@dataclass(frozen=True)
class Param:
    """One parameter of a model, without its values.

    `path` is the name in `model.named_parameters()`, `paths` all names of the same tensor. `layer` counts blocks from 0
    at the bottom, None outside the blocks; `n_layers` is the number of blocks in the parameter's own stack (outside
    the blocks: in the longest stack). `stack` is the path of that stack. Encoder-decoder models have two stacks and
    each counts from 0: `layer == 0` of a T5 is the lowest encoder block and the lowest decoder block alike.
    `component` is what the tensor is under its canonical name, `components` what it is under any name: an embedding
    tied to the head is both, and the trained copy of a module that PEFT saves whole is its component and "adapter".
    `bytes` is the size of the values; `trainable` is `requires_grad` at the time of the inventory.
    """

    path: str
    paths: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    numel: int
    bytes: int
    layer: int | None
    n_layers: int
    stack: str | None
    component: Component
    components: frozenset[Component]
    trainable: bool
    lora: LoraFactor | None = None

    @property
    def place(self) -> str:
        """Its part of the model in words: `layers.3 mlp`, or the component alone outside the blocks."""
        return self.component if self.layer is None else f"layers.{self.layer} {self.component}"


def inventory(model: nn.Module) -> list[Param]:
    """All parameters in the order of `named_parameters()`, tied ones once.

    Reads names, shapes and modules only, so it works on the meta device, on sharded tensors and on PEFT models.
    Where things are is read from structure: blocks are the outermost lists of like modules, embedding and head what
    the model itself says they are, a norm a module whose weight has one axis, and what a block holds beside
    attention and norms is its MLP.

    >>> from transformers import AutoConfig, AutoModelForCausalLM
    >>> from holdfast.tiny import MODEL
    >>> params = inventory(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL)))
    >>> params[0].path, sorted(params[0].components), params[0].shape
    ('model.embed_tokens.weight', ['embedding', 'head'], (512, 64))
    >>> params[1].path, params[1].component, params[1].layer, params[1].n_layers
    ('model.layers.0.self_attn.q_proj.weight', 'attention', 0, 5)
    """
    anatomy = _Anatomy(model)
    aliases: dict[int, list[str]] = defaultdict(list)
    for path, parameter in model.named_parameters(remove_duplicate=False):
        aliases[id(parameter)].append(path)
    canonical = {path: paths[0] for paths in aliases.values() for path in paths}
    factors = dict(lora_factors(anatomy.modules, canonical))
    return [
        _param(parameter, tuple(aliases[id(parameter)]), anatomy, factors.get(path))
        for path, parameter in model.named_parameters()
    ]


def _param(parameter: nn.Parameter, paths: tuple[str, ...], anatomy: _Anatomy, lora: LoraFactor | None) -> Param:
    stack, layer, n_layers = anatomy.place(paths[0])
    return Param(
        path=paths[0],
        paths=paths,
        shape=tuple(parameter.shape),
        dtype=parameter.dtype,
        numel=parameter.numel(),
        bytes=parameter.numel() * parameter.element_size(),
        layer=layer,
        n_layers=n_layers,
        stack=stack,
        component=anatomy.component(paths[0]),
        components=frozenset(c for path in paths for c in anatomy.components(path)),
        trainable=parameter.requires_grad,
        lora=lora,
    )


class _Anatomy:
    """Where the stacks, the embedding and the head of a model are, as paths of modules."""

    def __init__(self, model: nn.Module):
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.stacks = {path: len(blocks) for path, blocks in _stacks(self.modules)}
        host_path, host = next(((p, m) for p, m in self.modules.items() if isinstance(m, PreTrainedModel)), ("", model))
        embedding, head = (self._path(host, f"get_{side}_embeddings") for side in ("input", "output"))
        self.embedding = self._region(embedding, [*self.stacks, head], host_path)
        self.heads = [self._region(head, [*self.stacks, embedding], host_path), *_task_heads(host, host_path)]

    def place(self, path: str) -> tuple[str | None, int | None, int]:
        """Stack, block index and number of blocks of a parameter."""
        for stack, length in self.stacks.items():
            if _within(path, stack):
                return stack, int(_below(path, stack)[0]), length
        return None, None, max(self.stacks.values(), default=0)

    def components(self, path: str) -> set[Component]:
        """What a tensor is under one of its names."""
        return {self.component(path), "adapter"} if _WHOLE in path.split(".") else {self.component(path)}

    def component(self, path: str) -> Component:
        """The one component of a name: adapter before norm, norm before place."""
        if self._adapter(path):
            return "adapter"
        if _is_norm(self.modules[path.rpartition(".")[0]]):
            return "norm"
        stack, layer, _ = self.place(path)
        return self._outside(path) if stack is None else self._inside(path, f"{stack}.{layer}")

    def _adapter(self, path: str) -> bool:
        """PEFT's layers name the attributes they add; any module may declare itself an adapter in the same way."""
        parts = path.split(".")
        for i, name in enumerate(parts):
            layer = self.modules.get(".".join(parts[:i]))
            declared = (*getattr(layer, "adapter_layer_names", ()), *getattr(layer, "other_param_names", ()))
            if name in _ADAPTERS or (name in declared and name != _WHOLE):
                return True
        return False

    def _inside(self, path: str, block: str) -> Component:
        """Attention by class or attribute name, known mixers are other, every further module of a block is its MLP."""
        names = _below(path, block)[:-1]
        chain = [f"{block}.{'.'.join(names[: i + 1])}" for i in range(len(names))]
        words = " ".join(f"{n} {type(self.modules[p]).__name__}" for n, p in zip(names, chain, strict=True)).lower()
        if any(hint in words for hint in _ATTENTION):
            return "attention"
        return "mlp" if names and not any(hint in words for hint in _MIXERS) else "other"

    def _outside(self, path: str) -> Component:
        if any(_within(path, head) for head in self.heads if head):
            return "head"
        owner = self.modules[path.rpartition(".")[0]]
        if isinstance(owner, nn.Embedding) or (self.embedding and _within(path, self.embedding)):
            return "embedding"
        return next((component for name, component in _OUTSIDE.items() if name in path.split(".")), "other")

    def _path(self, host: nn.Module, getter: str) -> str | None:
        """The path of the module that a transformers model returns as its embedding or head, if it has one."""
        try:
            wanted = getattr(host, getter)()
        except (AttributeError, NotImplementedError):
            return None
        return next((path for path, module in self.modules.items() if module is wanted), None)

    @staticmethod
    def _region(path: str | None, others: list[str | None], host: str) -> str | None:
        """The largest part of the model around a module that holds none of the others (BERT's whole `cls`)."""
        while path and (parent := path.rpartition(".")[0]) != host and _within(parent, host):
            if any(other and _within(other, parent) for other in others):
                break
            path = parent
        return path


def _stacks(modules: dict[str, nn.Module]) -> Iterator[tuple[str, nn.ModuleList]]:
    """The outermost lists of modules of one kind that have parts of their own: the blocks, one list per stack."""
    found: list[str] = []
    for path, module in modules.items():
        if isinstance(module, nn.ModuleList) and _alike(module) and not any(_within(path, stack) for stack in found):
            found.append(path)
            yield path, module


def _alike(blocks: nn.ModuleList) -> bool:
    """Hybrid models mix block types in one list; transformers gives all of them one base class."""
    one_type = len({type(b) for b in blocks}) == 1 or all(isinstance(b, GradientCheckpointingLayer) for b in blocks)
    return len(blocks) > 0 and one_type and all(any(True for _ in b.children()) for b in blocks)


def _task_heads(host: nn.Module, path: str) -> Iterator[str]:
    """What a transformers model has beside its base model: `lm_head`, `cls`, `score`, `classifier`."""
    base = getattr(host, "base_model", host)
    if base is not host:
        yield from (f"{path}.{n}".lstrip(".") for n, child in host.named_children() if child is not base)


def _is_norm(module: nn.Module) -> bool:
    own = dict(module.named_parameters(recurse=False))
    scale = own.get("weight")
    return scale is not None and not isinstance(module, nn.PReLU) and all(p.dim() == 1 for p in own.values())


def _within(path: str, ancestor: str) -> bool:
    return ancestor == "" or path == ancestor or path.startswith(f"{ancestor}.")


def _below(path: str, ancestor: str) -> list[str]:
    return path[len(ancestor) + 1 :].split(".")
