"""What is searched: methods, places, sizes, learning rate and strengths of rules, as one recipe and its base allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from optuna import Trial
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from holdfast._errors import BadInput
from holdfast.recipe.checking import settings_of
from holdfast.recipe.faults import known
from holdfast.recipe.loading import parse
from holdfast.recipe.schema import Recipe
from holdfast.rule import rules

FULL = "full"
TAKEN = frozenset({"targets", "layers", "rank", "alpha"})
"""Knobs of methods that are searched; what a method has beside them stays at its default."""

PLACES = ("mlp", "attention", "attention | mlp")
RATE, RANK, ALPHA = (0.2, 5.0), (2, 64), (0.5, 4.0)
STRENGTH, SHARE = (1 / 8, 8.0), (1 / 4, 2.0)
"""How far the strength of a rule, or a share of replay, may go, in multiples of the recipe's own."""

MOST_REPLAYED = 0.75


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] <= pair[1]:
        raise ValueError("write the lower bound first")
    return pair


def _positive(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] > 0:
        raise ValueError("both bounds have to be above 0")
    return pair


Pair = Annotated[tuple[float, float], AfterValidator(_rising)]
Positive = Annotated[Pair, AfterValidator(_positive)]
Sizes = Annotated[tuple[int, int], AfterValidator(_rising), AfterValidator(_positive)]


class Narrowed(BaseModel):
    """What a space file may say; what it leaves out is searched as widely as recipe and base allow.

    `methods`, `targets` (selections) and `layers` (`0:5`, half-open) are lists; the others pairs [lowest, highest].
    `rate` multiplies the recipe's learning rate (for another method, what that is there), `alpha` the rank.
    `rules` names a number of the recipe's rules: `replay.share`, `distill.strength`, `replay-2.share` for the second
    one. Two like bounds leave nothing to be searched.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    methods: list[str] | None = None
    targets: list[str] | None = None
    layers: list[str] | None = None
    rank: Sizes | None = None
    alpha: Positive | None = None
    rate: Positive | None = None
    rules: dict[str, Pair] = {}


def read_space(file: str | Path) -> Narrowed:
    """The space that a YAML file describes; raises BadInput and UnknownName that say where the fault is."""
    try:
        text = Path(file).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The space {file} cannot be read: {error}.") from error
    return narrowed(parse(text, str(file)) if text.strip() else {})


def narrowed(raw: Mapping[str, Any]) -> Narrowed:
    """The space that plain values describe; raises BadInput and UnknownName.

    >>> narrowed({"rank": [8, 2]})
    Traceback (most recent call last):
    holdfast._errors.BadInput: The space's `rank` cannot be used: write the lower bound first, not [8, 2].
    """
    known("key of a space called", raw, Narrowed.model_fields)
    try:
        return Narrowed.model_validate(dict(raw))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(step) for step in fault["loc"])
        said = fault["msg"].removeprefix("Value error, ")
        said = said[:1].lower() + said[1:]
        raise BadInput(f"The space's `{where}` cannot be used: {said}, not {fault['input']!r}.") from None


@dataclass(frozen=True)
class Knob:
    """A number of a rule: where in the recipe's list it stands, and how far it may go."""

    place: int
    rule: str
    key: str
    own: float
    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Space:
    """All choices of a search. `methods` maps each method to the knobs that it takes of a candidate.

    `targets` maps words to what a recipe says; `windows` are half-open ranges of blocks, the first is all of them.
    """

    methods: Mapping[str, frozenset[str]]
    targets: Mapping[str, Any]
    windows: Sequence[str]
    whole: str
    rank: tuple[int, int]
    alpha: tuple[float, float]
    rate: tuple[float, float]
    knobs: Mapping[str, Knob]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The parameters of one candidate; what a method does not have is not asked for."""
        method = trial.suggest_categorical("method", list(self.methods))
        takes = self.methods[str(method)]
        if "targets" in takes:
            trial.suggest_categorical("targets", list(self.targets))
        if takes & {"targets", "layers"} or method == FULL:
            trial.suggest_categorical("layers", list(self.windows))
        if "rank" in takes:
            trial.suggest_int("rank", *self.rank, log=True)
        if "alpha" in takes:
            trial.suggest_float("alpha", *self.alpha, log=True)
        trial.suggest_float("rate", *self.rate, log=True)
        for name, knob in self.knobs.items():
            trial.suggest_float(name, knob.low, knob.high, log=knob.log)
        return dict(trial.params)

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether these parameters lie inside the space."""
        ranges = {"rank": self.rank, "alpha": self.alpha, "rate": self.rate}
        ranges |= {name: (knob.low, knob.high) for name, knob in self.knobs.items()}
        choices = {"method": self.methods, "targets": self.targets, "layers": self.windows}
        inside = [low <= params[name] <= high for name, (low, high) in ranges.items() if name in params]
        return all(inside) and all(params[name] in found for name, found in choices.items() if name in params)


def spanned(recipe: Recipe, methods: Mapping[str, frozenset[str]], blocks: int, width: int, wanted: Narrowed) -> Space:
    """The space around a recipe, narrowed to what is wanted.

    `methods` are those that the base can take, with their knobs; `blocks` is its depth and `width` the narrower side of
    its narrowest matrix, which no rank exceeds. Raises UnknownName for a method or a number of a rule that there is
    not, BadInput for a range of blocks that the base does not have.
    """
    found = knobs(recipe)
    known("method that this base can take called", wanted.methods or (), methods)
    known("number of the recipe's rules called", wanted.rules, found)
    whole = f"0:{blocks}"
    for window in wanted.layers or ():
        _check_window(window, blocks)
    return Space(
        methods={name: methods[name] & TAKEN for name in wanted.methods or methods},
        targets=_targets(recipe, wanted),
        windows=wanted.layers or windows(blocks),
        whole=whole,
        rank=wanted.rank or (min(RANK[0], width), min(RANK[1], width)),
        alpha=wanted.alpha or ALPHA,
        rate=wanted.rate or RATE,
        knobs={name: _narrowed_knob(knob, wanted.rules.get(name)) for name, knob in found.items()},
    )


def windows(blocks: int) -> list[str]:
    """Ranges of blocks: all, lower and upper half, all but the lowest or highest quarter.

    >>> windows(8), windows(1)
    (['0:8', '0:4', '4:8', '2:8', '0:6'], ['0:1'])
    """
    half, quarter = blocks // 2, -(-blocks // 4)
    pairs = [(0, blocks), (0, half), (half, blocks), (quarter, blocks), (0, blocks - quarter)]
    return list(dict.fromkeys(f"{low}:{high}" for low, high in pairs if low < high))


def knobs(recipe: Recipe) -> dict[str, Knob]:
    """The numbers of a recipe's rules that can be searched: strengths, and shares of replay; strengths of 0 stay."""
    found, seen = dict[str, Knob](), Counter[str]()
    for place, (name, given) in enumerate((n, g) for entry in recipe.rules for n, g in entry.items()):
        seen[name] += 1
        own = name if seen[name] == 1 else f"{name}-{seen[name]}"
        values = {**settings_of(rules[name]), **given}
        for key in ("strength", *(("share",) if name == "replay" else ())):
            value = values.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                found[f"{own}.{key}"] = _knob(place, name, key, float(value))
    return found


def _knob(place: int, rule: str, key: str, own: float) -> Knob:
    low, high = SHARE if key == "share" else STRENGTH
    top = max(own, min(MOST_REPLAYED, own * high)) if key == "share" else own * high
    return Knob(place, rule, key, own, own * low, top, log=key == "strength")


def _narrowed_knob(knob: Knob, pair: tuple[float, float] | None) -> Knob:
    low, high = pair or (knob.low, knob.high)
    if knob.key == "share" and not 0 <= low <= high < 1:
        raise BadInput(f"A share of replay lies in [0, 1), not in [{low:g}, {high:g}].")
    if knob.key == "strength" and low < 0:
        raise BadInput(f"A strength is at least 0, so it cannot lie in [{low:g}, {high:g}].")
    return Knob(knob.place, knob.rule, knob.key, knob.own, low, high, log=knob.log and low > 0)


def _targets(recipe: Recipe, wanted: Narrowed) -> dict[str, Any]:
    """Choices of targets by the words that stand for them; the recipe's own come first."""
    if wanted.targets is not None:
        return {text: text for text in wanted.targets}
    own = recipe.method.arguments.get("targets")
    found = {} if own is None else {said(own): own}
    return found | {text: text for text in PLACES if text not in found}


def said(targets: Any) -> str:
    """Targets as one word for a choice: a selection as it is, a list of names with commas."""
    return targets if isinstance(targets, str) else ", ".join(map(str, targets))


def _check_window(window: str, blocks: int) -> None:
    low, colon, high = window.partition(":")
    if not (colon and low.isdigit() and high.isdigit() and int(low) < int(high) <= blocks):
        raise BadInput(f"{window!r} is no range of blocks of this base: write two block numbers, from 0 to {blocks}.")
