"""Candidates: which methods a base can take, and a recipe with the parameters of one candidate put in."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from torch import nn

from holdfast._errors import BadInput, HoldfastError, Unsupported
from holdfast.adapters.method import methods
from holdfast.base import load_config
from holdfast.params import plan as freezing
from holdfast.params.inventory import inventory
from holdfast.recipe.checking import knobs_of
from holdfast.recipe.loading import load
from holdfast.recipe.schema import Recipe
from holdfast.recipe.spelling import spelt_out
from holdfast.recipe.training import FULL_RATE
from holdfast.search.space import FULL, TAKEN, Space, said

USUAL = (FULL, "lora", "ia3", "ln", "shira", "bottleneck", "osf")
"""What is searched beside the recipe's own method unless a space says which: kinds that differ, so that few trials do.
"""

STEPS = ("during", "progressive")
"""Arguments that every rule takes and that count steps; a shorter run shortens them."""


def fitting(recipe: Recipe, wanted: Sequence[str] | None = None) -> tuple[dict[str, frozenset[str]], dict[str, str]]:
    """The methods that a recipe's base can take, each with its knobs, and why it cannot take the others.

    Each is put on the base's shape alone, without weights; what needs settings that nobody has given, another way of
    loading the base, or a rule of its own is left out. Raises UnknownName for a method that there is not.
    """
    found, refused = dict[str, frozenset[str]](), dict[str, str]()
    usual = [name for name in methods.names() if name in (*USUAL, recipe.method.name)]
    for name in wanted or usual:
        if (fault := _fault(recipe, name)) is not None:
            refused[name] = fault
        else:
            found[name] = frozenset(knobs_of(name)) - (frozenset() if _selects(name) else {"targets"})
    return found, refused


def _selects(name: str) -> bool:
    """Whether a method's targets may be a selection; some take only names of modules, which differ between bases."""
    return str in get_args(get_type_hints(methods[name]).get("targets"))


def _fault(recipe: Recipe, name: str) -> str | None:
    """Why a method cannot be put on the shape of a base; PEFT has errors of many kinds."""
    asked, traits = name == recipe.method.name, methods.traits(name)
    own = recipe.method.arguments if asked else {}
    own_way = traits.loading is not None or methods.traits(recipe.method.name).loading is not None
    if not asked and (own_way or traits.companion is not None):
        return "it and the recipe's method store the base in different ways, or it needs a rule beside it"
    if missing := [knob for knob, default in knobs_of(name).items() if default is ... and knob not in own]:
        return f"it needs {', '.join(missing)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what PEFT thinks of the layers; a trial will say it again
            model: Any = methods.apply(name, freezing.from_config(load_config(recipe.base)), own, seed=0, steps=1)
    except HoldfastError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if any(p.requires_grad for p in model.parameters()) else "nothing of this base would train"


def measures(model: nn.Module) -> tuple[int, int]:
    """The number of blocks of a model, and the narrower side of the narrowest matrix in them."""
    params = inventory(model)
    sides = [min(p.shape) for p in params if p.layer is not None and len(p.shape) == 2]
    return max((p.n_layers for p in params), default=0), min(sides, default=1)


def own_parameters(space: Space, recipe: Recipe) -> dict[str, Any] | None:
    """The untouched recipe as parameters of the space; None where the space does not hold it."""
    method = recipe.method.name
    said_elsewhere = {*recipe.method.arguments} & (TAKEN | {"preset"})
    if method not in space.methods or said_elsewhere - space.methods[method]:
        return None
    takes, given = space.methods[method], {**knobs_of(method), **recipe.method.arguments}
    params: dict[str, Any] = {"method": method}
    if "targets" in takes:
        params["targets"] = said(given["targets"] or "mlp")
    if takes & {"targets", "layers"} or method == FULL:
        params["layers"] = given.get("layers") or space.whole
    if "rank" in takes:
        params["rank"] = given["rank"]
    if "alpha" in takes and params.get("rank") is not None:
        params["alpha"] = 2.0 if given["alpha"] is None else given["alpha"] / params["rank"]
    params |= {"rate": 1.0, **{name: knob.own for name, knob in space.knobs.items()}}
    return params if None not in params.values() and space.holds(params) else None


def carried(values: Mapping[str, Any], space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a recipe with a candidate's parameters in it; without parameters, the recipe as it is.

    Numbers have four digits, which people can read and no run can tell from more.
    """
    if not params:
        return copy.deepcopy(dict(values))
    raw = copy.deepcopy(spelt_out(values))
    recipe = load(values)
    raw["train"] = {**raw.get("train", {}), "learning_rate": _rate(recipe, params)}
    raw["method"] = _method(recipe, space, params)
    raw["rules"] = _rules(raw.get("rules") or [], space, params)
    return raw


def shortened(values: Mapping[str, Any], steps: int, of: int) -> dict[str, Any]:
    """The plain values with the steps of a rung: warm-up and what rules count in steps shrink with them.

    The learning rate decays over these steps, so a rung is a whole short run and not the beginning of a longer one.
    Governor, early stopping and checkpoints are left out.
    """
    raw, share = copy.deepcopy(spelt_out(values)), steps / of
    train = {**raw.get("train", {}), "max_steps": steps, "save_strategy": "no", "eval_strategy": "no"}
    if train.get("warmup_steps", 0) >= 1:
        train["warmup_steps"] = round(train["warmup_steps"] * share)
    raw["train"] = {key: value for key, value in train.items() if key not in ("save_steps", "eval_steps")}
    raw["keep"] = {**(raw.get("keep") or {}), "govern": False}
    raw.pop("early_stopping", None)
    for entry in raw.get("rules") or []:
        for given in entry.values():
            given |= {key: _fewer(given[key], share) for key in STEPS if key in given}
    return raw


def _fewer(count: Any, share: float) -> Any:
    """Steps, or the first and last of them, of a shorter run; no stretch is shorter than one step."""
    if isinstance(count, list):
        first, last = (round(step * share) for step in count)
        return [first, max(first + 1, last)]
    return max(1, round(count * share))


def _rate(recipe: Recipe, params: Mapping[str, Any]) -> float:
    """The recipe's learning rate, times what the candidate's method is used to beside the recipe's own."""
    own = methods.traits(recipe.method.name).rate
    rate = recipe.train.get("learning_rate", FULL_RATE * own)
    return rounded(float(rate) * methods.traits(params["method"]).rate / own * float(params["rate"]))


def rounded(value: float) -> float:
    """Four significant digits.

    >>> rounded(0.016427104506857134)
    0.01643
    """
    return float(f"{value:.4g}")


def _method(recipe: Recipe, space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Name and arguments; the recipe's own arguments stay where its method does."""
    name, takes = params["method"], space.methods[params["method"]]
    made = {"name": name, **(recipe.method.arguments if name == recipe.method.name else {})}
    if "targets" in params:
        made["targets"] = space.targets[params["targets"]]
    if name != FULL and (window := params.get("layers", space.whole)) != space.whole:
        if "layers" in takes:
            made["layers"] = f"layers({window})"
        else:
            made["targets"] = f"({selection(made['targets'])}) & layers({window})"
    if "rank" in params:
        made["rank"] = params["rank"]
    if "alpha" in params:
        made["alpha"] = rounded(params["alpha"] * params.get("rank", 1))
    return made


def selection(targets: str | Sequence[str]) -> str:
    """Names of modules as a selection."""
    return targets if isinstance(targets, str) else " | ".join(f'"*.{name}.*"' for name in targets)


def _rules(rules: Sequence[Any], space: Space, params: Mapping[str, Any]) -> list[Any]:
    """The rules with their numbers; where whole weights learn in some blocks only, the rest is frozen."""
    flat = [{name: dict(given)} for entry in rules for name, given in entry.items()]
    for name, knob in space.knobs.items():
        if name in params:
            flat[knob.place][knob.rule][knob.key] = rounded(params[name])
    window = params.get("layers", space.whole)
    if params["method"] == FULL and window != space.whole:
        flat.append({"frozen": {"select": f"~layers({window})"}})
    return flat


def check_base(recipe: Recipe, adapted: bool) -> None:
    """Raise BadInput for a base that is an adapter, whose method is settled, Unsupported for a classifier."""
    if recipe.learn.task != "causal":
        raise Unsupported("A search compares losses on text, and a classifier has a head of its own: use `grid`.")
    if adapted:
        raise BadInput(
            f"{recipe.base} is an adapter, so its method, places and rank are settled and there is little to search. "
            "Merge it into its base first, or try strengths by `holdfast grid`."
        )
