"""Which parameters does a name mean? Layers and parameters by the names that people use, on any model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from holdfast._errors import BadInput, HoldfastError, UnmatchedSelect
from holdfast.params.inventory import COMPONENTS, Param
from holdfast.params.select import layers, matched, parse

_Finder = Callable[[str, Sequence[Param]], list[Param]]


def layer(name: str, params: Sequence[Param]) -> list[str]:
    """Paths of the parameters of a layer; raises UnmatchedSelect with the nearest names.

    In this order: `embedding`, `encoder`, `decoder` (below); a component (`attention`, `mlp`, `norm`, `head` …); a
    module's path or any part of it (`model.layers.0`, `self_attn`); a word of flat names (`embedding` of
    `embedding_weights`); a selection such as `layers(0:2) & ~norm`.

    `embedding` is the input embedding. Where a model has an encoder, `encoder` is its blocks and what else stands in
    it, and `decoder` is all the rest but the embedding. In a decoder-only model `encoder` is the lower half of the
    blocks (rounded down), `decoder` the upper half with final norm and head. An embedding that is tied to the head is
    one tensor: it is in `embedding` and in `decoder`.
    """
    for find in (_guide, _component, _module, _word, _selection):
        if found := find(name, params):
            return [param.path for param in found]
    raise UnmatchedSelect(_unknown("layer", name, [*_GUIDE, *COMPONENTS, *_modules(params)]))


def parameter(name: str, params: Sequence[Param]) -> list[str]:
    """Paths of the parameters of that name: in full, by its end (`q_proj.weight`), or by a glob; tied names count.

    Raises UnmatchedSelect with the nearest names.
    """
    ways: tuple[Callable[[str], bool], ...] = (
        lambda path: path == name,
        lambda path: path.endswith(f".{name}"),
        lambda path: fnmatchcase(path, name),
    )
    for way in ways:
        if found := [param.path for param in params if any(way(path) for path in param.paths)]:
            return found
    raise UnmatchedSelect(_unknown("parameter", name, [path for param in params for path in param.paths]))


def by_path(params: Sequence[Param], gradients: Mapping[str, Any]) -> dict[str, Any]:
    """Gradients by the full path of their parameter; raises UnmatchedSelect, and BadInput for what names several."""
    found: dict[str, Any] = {}
    for name, gradient in gradients.items():
        paths = parameter(name, params)
        if len(paths) > 1:
            raise BadInput(f"A gradient belongs to one parameter; {name!r} names {len(paths)}: {', '.join(paths[:3])}.")
        if paths[0] in found:
            raise BadInput(f"Two gradients were given for {paths[0]}, the second as {name!r}. Add them up.")
        found[paths[0]] = gradient
    return found


def _guide(name: str, params: Sequence[Param]) -> list[Param]:
    return [p for p in params if _GUIDE[name](p, params)] if name in _GUIDE and any(p.stack for p in params) else []


def _in_encoder(param: Param, params: Sequence[Param]) -> bool:
    if "embedding" in param.components:
        return False
    if encoders := _encoders(params):
        return any(f"{path}.".startswith(f"{encoder}.") for path in param.paths for encoder in encoders)
    return layers("50%")(param)


def _in_decoder(param: Param, params: Sequence[Param]) -> bool:
    if "embedding" in param.components:
        return "head" in param.components
    return not _in_encoder(param, params)


_GUIDE: dict[str, Callable[[Param, Sequence[Param]], bool]] = {
    "embedding": lambda param, params: "embedding" in param.components,
    "encoder": _in_encoder,
    "decoder": _in_decoder,
}


def _encoders(params: Sequence[Param]) -> set[str]:
    """Paths of the modules called `encoder` that hold a stack of blocks."""
    stacks = [param.stack.split(".") for param in params if param.stack]
    return {".".join(parts[: parts.index("encoder") + 1]) for parts in stacks if "encoder" in parts}


def _module(name: str, params: Sequence[Param]) -> list[Param]:
    return [p for p in params if any(f".{name}." in f".{path.rpartition('.')[0]}." for path in p.paths)]


def _component(name: str, params: Sequence[Param]) -> list[Param]:
    return [p for p in params if name in p.components]


def _word(name: str, params: Sequence[Param]) -> list[Param]:
    return [p for p in params if any(name in part.split("_") for path in p.paths for part in path.split("."))]


def _selection(name: str, params: Sequence[Param]) -> list[Param]:
    try:
        return matched(parse(name), params)
    except HoldfastError:
        return []


def _modules(params: Sequence[Param]) -> Iterable[str]:
    """Every module's path, and every end of it."""
    paths = {tuple(path.split(".")[:-1]) for param in params for path in param.paths}
    return {".".join(parts[i:]) for parts in paths for i in range(len(parts))}


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.3)
    hint = f"The nearest are {', '.join(near)}." if near else "`get_parameter_info()` lists the parameters."
    return f"There is no {kind} {name!r} in this model. {hint}"
