"""Which layers of a model a method acts on: a selection as text or names, each part of which has to match."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from holdfast._errors import BadInput, UnmatchedSelect
from holdfast.params.inventory import inventory
from holdfast.params.select import Predicate, matched, parse

Targets = str | Sequence[str]
"""A selection (`mlp`, `attention & layers(50%:)`, `"*.q_proj.*"`) or names of modules (`[q_proj, v_proj]`)."""


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix: nn.Linear, its quantised kinds, or GPT-2's Conv1D."""
    return isinstance(module, nn.Linear | Conv1D)


def target_modules(
    model: nn.Module,
    targets: Targets,
    layers: str | None = None,
    kind: Callable[[nn.Module], bool] = is_linear,
    what: str = "linear layer",
) -> list[str]:
    """Full paths of the modules of a `kind` that `targets` names, in order; every part of it has to name one.

    `layers` is a selection that narrows them further (`layers(50%:)`). Raises UnmatchedSelect for a name that matches
    nothing, with the nearest, and BadInput where what is named holds no such module.
    """
    fit = [path for path, module in model.named_modules() if kind(module)]
    found = _selected(model, fit, targets) if isinstance(targets, str) else _named(fit, list(targets), what)
    if layers is not None:
        chosen = set(_selected(model, found, layers))
        found = [path for path in found if path in chosen]
    if not found:
        asked = targets if layers is None else f"{targets} within {layers}"
        raise BadInput(
            f"{asked} names no {what} of this model, and only those can be a target. There are "
            f"{', '.join(leaves(fit)) or 'none'}."
        )
    return found


def blocks(model: nn.Module, layers: str | None) -> list[str]:
    """Paths of the parameters in the chosen blocks, all where nothing is chosen; raises UnmatchedSelect."""
    params = inventory(model)
    chosen = params if layers is None else matched(parse(layers), params)
    return [path for param in chosen for path in param.paths]


def check_names(model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Raise UnmatchedSelect for a name in PEFT's own settings that matches no module; PEFT would pass it over."""
    paths = [path for path, _ in model.named_modules() if path]
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        given = settings.get(key)
        if not isinstance(given, str):
            _named(paths, list(given), "module") if given else None
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in settings.get(key) or ():
            if not any(re.match(rf"(.*\.)?({pattern})$", path) for path in paths):
                near = difflib.get_close_matches(pattern, leaves(paths), n=3, cutoff=0.0)
                raise UnmatchedSelect(f"`{key}`: no module is called {pattern!r}. The nearest are {', '.join(near)}.")


def leaves(paths: Sequence[str]) -> list[str]:
    """The last names of paths, each once."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def _selected(model: nn.Module, fit: Sequence[str], select: str) -> list[str]:
    predicate: Predicate = parse(select)
    owners = {path.rpartition(".")[0] for param in matched(predicate, inventory(model)) for path in param.paths}
    return [path for path in fit if path in owners]


def _named(fit: Sequence[str], names: Sequence[str], what: str) -> list[str]:
    """PEFT passes over names that match nothing as long as one does; here each has to match."""
    if not names:
        raise BadInput("`targets` is empty, so nothing would train. Name parts (mlp) or layers ([q_proj, v_proj]).")
    for name in names:
        if not any(_is(path, name) for path in fit):
            near = difflib.get_close_matches(name, leaves(fit), n=3, cutoff=0.0)
            raise UnmatchedSelect(f"No {what} is called {name!r}. The nearest are {', '.join(near) or 'none at all'}.")
    return [path for path in fit if any(_is(path, name) for name in names)]


def _is(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
