"""What a recipe may say: strict keys, each unknown one answered with the nearest that exists."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import TrainingArguments

from holdfast import adapters, remedies, strategies
from holdfast._errors import BadInput, UnknownName
from holdfast.adapters.method import GIVEN as GIVEN_TO_METHODS
from holdfast.adapters.method import methods
from holdfast.adapters.presets import PRESETS
from holdfast.budget import SMALL
from holdfast.data.probes import SELF
from holdfast.governor import Governor
from holdfast.recipe.arguments import check_arguments
from holdfast.rule import rules

ROOMS = (adapters, remedies, strategies)
"""Imported for what they enter in the registries."""

OURS = {
    "output_dir": "Name the run folder at the top of the recipe: `output: runs/name`.",
    "seed": "Write `seed:` at the top of the recipe; it seeds everything.",
    "resume_from_checkpoint": "Use --resume, or `run(recipe, resume=True)`.",
}
"""Training arguments that a recipe says elsewhere."""

PLACED = {
    "governor": "Give a budget under `keep`; the governor's settings stand there too.",
    "monitor": "A monitor always looks on; its settings stand under `monitor` at the top of the recipe.",
}
"""Rules that a recipe says elsewhere."""

WRAPPERS = {"within": str, "every": int, "during": list, "progressive": int}
"""Keys that every rule takes, and their types."""

GIVEN = {"pad_id", "model", "seed", "guards", "folder", "metric", "answers"}
"""Arguments of rules that a run fills in itself, or that only a program can give."""

SCORES = ("accuracy", "macro_f1")
"""What a classifier can be stopped by, beside losses; more of it is better."""

Budget = Annotated[float, Field(gt=0)]


class Part(BaseModel):
    """A mapping of a recipe: what is not among its keys is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Learn(Part):
    """What is learnt: `data` and the rows of `length` tokens made of it.

    `evaluation` is another source to measure on; without one, the data's own test split, or a tenth of its documents.
    `start` says whether rows of running text begin with BOS; `auto` asks which the base finds less surprising.

    `task: classify` puts a head on the base and teaches it labels: `labels` names them in the order of the logits
    (sorted unless told), `class_weights` weighs them in the loss, by a list in that order or `balanced`.
    """

    data: str
    evaluation: str | None = None
    length: Annotated[int, Field(ge=2)] = 128
    start: Literal["auto", "bos", "none"] = "auto"
    split: str = "train"
    mapping: dict[str, str] | None = None
    task: Literal["causal", "classify"] = "causal"
    labels: list[str] | None = None
    class_weights: Literal["none", "balanced"] | list[Annotated[float, Field(gt=0)]] = "none"


class Keep(Part):
    """What is kept: text sampled from the base (`probe: self`) and `suites` of old text, each with its `budget`.

    `rows` bounds control and audit together, per text. `budget` is the allowed rise of perplexity (0.02: 2 %), one for
    all texts or one each. Further keys are the governor's own settings; `govern: false` only measures.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    probe: Literal["self", "none"] = "self"
    rows: Annotated[int, Field(ge=8)] = 1024
    suites: list[str] = []
    budget: Budget | dict[str, Budget] | None = None
    govern: bool = True

    @property
    def texts(self) -> list[str]:
        """The names of the guarded texts."""
        return [*([SELF] if self.probe == "self" else []), *self.suites]

    @property
    def settings(self) -> dict[str, Any]:
        """The governor's settings."""
        return dict(self.model_extra or {})

    def budget_of(self, text: str) -> float | None:
        """The allowed relative rise of perplexity on a text, if there is a limit."""
        return self.budget.get(text) if isinstance(self.budget, dict) else self.budget


class Method(Part):
    """What trains: `name` is an entry of `methods`, further keys are its arguments."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    name: str = "full"

    @property
    def arguments(self) -> dict[str, Any]:
        """The method's own arguments."""
        return dict(self.model_extra or {})


class Monitoring(Part):
    """How often the run is looked at (`every` steps) and on how many `rows` of each text.

    What is left open follows from `share`, the part of the training time that looking may take. An ungoverned text
    whose perplexity rose by more than its budget, or else by `alarm` (0.3: 30 %), gives an alarm: `on_alarm` says
    whether the run goes on (`log`) or ends (`stop`, `raise`), `webhook` is told, and with `save: alarms` (or `looks`)
    what moved is kept in `monitor/`.
    """

    every: Annotated[int, Field(ge=1)] | None = None
    rows: Annotated[int, Field(ge=2)] | None = None
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    alarm: Annotated[float, Field(gt=0)] = 0.3
    on_alarm: Literal["log", "stop", "raise"] = "log"
    webhook: str | None = None
    save: Literal["none", "alarms", "looks"] = "none"


class EarlyStopping(Part):
    """Stop where `metric` is not better by more than `threshold` for `patience` looks; the best weights are kept.

    `metric` is the loss on what is `learnt` or on a guarded text, by its name, or a classifier's `accuracy` or
    `macro_f1` on what is learnt; `every` is the number of steps between
    looks, a twentieth of the run unless told.
    """

    patience: Annotated[int, Field(ge=1)] = 3
    metric: str = "learnt"
    threshold: Annotated[float, Field(ge=0)] = 0.0
    every: Annotated[int, Field(ge=1)] | None = None


class Evaluate(Part):
    """Suites that base and tuned model are scored on (see `holdfast suites`); `learnt` are those of what is trained.

    `noise` scores the base twice, to know what measuring itself changes; `drift` compares answers to open prompts.
    """

    suites: list[str | dict[str, Any]] = []
    learnt: list[str | dict[str, Any]] = []
    noise: bool = True
    drift: bool = True


class Samples(Part):
    """Prompts that base and tuned model continue; without any, the openings of a kept and a learnt text.

    A `temperature` of 0 always takes the likeliest token.
    """

    old: list[str] | None = None
    new: list[str] | None = None
    tokens: Annotated[int, Field(ge=1)] = 80
    temperature: Annotated[float, Field(ge=0)] = 0.7


class Recipe(Part):
    """A whole run, as a YAML file says it; `rules` are mappings of one name to that rule's arguments."""

    base: str
    learn: Learn
    keep: Keep = Keep()
    method: Method = Method()
    train: dict[str, Any] = {}
    rules: list[dict[str, dict[str, Any]]] = []
    monitor: Monitoring = Monitoring()
    early_stopping: EarlyStopping | None = None
    evaluate: Evaluate = Evaluate()
    samples: Samples = Samples()
    seed: Annotated[int, Field(ge=0)] = 0
    output: str


def checked(raw: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; raises BadInput, and UnknownName for a key, rule, method or argument there is not."""
    spelt = spelt_out(raw)
    try:
        recipe = Recipe.model_validate(spelt)
    except ValidationError as error:
        raise explained(error, spelt, Recipe) from None
    known("training argument called", recipe.train, {f.name for f in dataclasses.fields(TrainingArguments)}, OURS)
    check_arguments(recipe.train)
    method = recipe.method
    known("setting of `keep` called", recipe.keep.settings, {*Keep.model_fields, *settings_of(Governor)})
    known(f"argument of the method {method.name!r} called", method.arguments, knobs_of(method.name))
    for entry in recipe.rules:
        for name, arguments in entry.items():
            _check_rule(name, arguments)
    _check_texts(recipe)
    return recipe


def settings_of(thing: Any, given: Collection[str] = GIVEN) -> dict[str, Any]:
    """What a recipe may set of a rule: its arguments and their defaults, `...` where there is none."""
    knobs = {name: p for name, p in inspect.signature(thing).parameters.items() if name not in given}
    return {name: ... if p.default is p.empty else p.default for name, p in knobs.items()}


def knobs_of(method: str) -> dict[str, Any]:
    """What a recipe may set of a method, and the defaults."""
    return settings_of(methods[method], GIVEN_TO_METHODS)


def spelt_out(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Short forms in full: `learn: text`, `method: lora`, `- frozen`."""
    full = dict(raw)
    for key, name in (("learn", "data"), ("method", "name")):
        if isinstance(full.get(key), str):
            full[key] = {name: full[key]}
    if isinstance(full.get("method"), Mapping) and full["method"].get("preset") is not None:
        full["method"] = _preset(full["method"])
    if isinstance(full.get("rules"), list):
        full["rules"] = [_entry(rule) for rule in full["rules"]]
    return {key: value for key, value in full.items() if value is not None}


def _preset(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method by its preset, with what the recipe says beside it; another rank brings its own alpha."""
    told = {key: value for key, value in method.items() if key != "preset"}
    if method["preset"] not in PRESETS:
        raise UnknownName("preset of a method called", str(method["preset"]), PRESETS)
    named = PRESETS[method["preset"]]
    if told.get("name", named["name"]) != named["name"]:
        raise BadInput(
            f"The preset {method['preset']!r} is of the method {named['name']!r}; leave the other name away."
        )
    return {**{key: value for key, value in named.items() if key != "alpha" or "rank" not in told}, **told}


def _entry(rule: Any) -> Any:
    if isinstance(rule, str):
        return {rule: {}}
    return {name: {} if a is None else a for name, a in rule.items()} if isinstance(rule, Mapping) else rule


def explained(error: ValidationError, raw: Any, whole: type[BaseModel]) -> BadInput:
    """The first fault of a recipe, as `whole` checks it, in a sentence."""
    fault = max(error.errors(), key=lambda fault: len(_place(fault, raw)))
    where = _place(fault, raw)
    if fault["type"] == "extra_forbidden":
        of = f"`{where[0]}`" if len(where) > 1 else "a recipe"
        return UnknownName(f"key of {of} called", where[-1], _part(whole, where).model_fields)
    if fault["type"] == "missing":
        return BadInput(f"The recipe lacks `{'.'.join(where)}`.")
    given = "" if isinstance(fault["input"], Mapping | list) else f", not {fault['input']!r}"
    more = f" {SMALL}" if where[:2] == ["keep", "budget"] and fault["type"] == "greater_than" else ""
    return BadInput(f"The recipe's `{'.'.join(where)}` cannot be used: {_lower(fault['msg'])}{given}.{more}")


def _part(whole: type[BaseModel], where: list[str]) -> type[BaseModel]:
    """The part of a recipe that has keys at this place: a mapping, or each entry of a list of mappings."""
    if len(where) < 2:
        return whole
    annotation = whole.model_fields[where[0]].annotation
    part = next(iter(get_args(annotation)), annotation)
    assert isinstance(part, type) and issubclass(part, BaseModel)
    return part


def _place(fault: Any, raw: Any) -> list[str]:
    """Where in the recipe a fault is; where a key may have several types, pydantic's path names them as well."""
    where: list[str] = []
    for step in fault["loc"]:
        inside = step in raw if isinstance(raw, Mapping) else isinstance(raw, list) and isinstance(step, int)
        if inside or fault["type"] == "missing":
            where, raw = [*where, str(step)], raw[step] if inside else None
    return where


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def known(kind: str, given: Iterable[str], names: Iterable[str], placed: Mapping[str, str] | None = None) -> None:
    """Raise UnknownName for a given name that is not among `names`, or BadInput where it is `placed` elsewhere."""
    for name in given:
        if placed and name in placed:
            raise BadInput(f"{name!r} does not stand here. {placed[name]}")
        if name not in set(names):
            raise UnknownName(kind, name, names)


def _check_rule(name: str, arguments: Mapping[str, Any]) -> None:
    if name in PLACED:
        raise BadInput(f"{name!r} does not stand under `rules`. {PLACED[name]}")
    own = settings_of(rules[name])
    known(f"argument of rule {name!r} called", arguments, {*own, *WRAPPERS})
    for key, kind in WRAPPERS.items():
        if key in arguments and key not in own and not isinstance(arguments[key], kind):
            raise BadInput(f"rule {name!r}: `{key}` is {_FORMS[key]}, not {arguments[key]!r}.")
    if missing := [key for key, default in own.items() if default is ... and key not in arguments]:
        raise BadInput(f"The rule {name!r} needs {', '.join(f'`{key}`' for key in missing)}.")


_FORMS = {
    "within": "a selection such as `mlp`",
    "every": "a number of steps",
    "during": "a pair [first, last]",
    "progressive": "a number of steps",
}


def _check_texts(recipe: Recipe) -> None:
    keep, learn = recipe.keep, recipe.learn
    classify = learn.task == "classify"
    if not classify and (learn.labels is not None or learn.class_weights != "none"):
        raise BadInput("`learn.labels` and `learn.class_weights` are of a classifier: add `task: classify` to `learn`.")
    if recipe.early_stopping is not None:
        judged = SCORES if classify else ()
        known("text to stop by called", [recipe.early_stopping.metric], ["learnt", *judged, *keep.texts])
        if keep.govern and keep.budget is not None:
            raise BadInput(
                "Under a budget the governor stops a run: leave `early_stopping` away, or set `govern: false`."
            )
    if isinstance(keep.budget, dict):
        known("guarded text called", keep.budget, keep.texts)
    if keep.budget is not None and not keep.texts:
        raise BadInput("There is a budget but nothing to keep. Set `probe: self`, or name texts under `keep.suites`.")
    if len(set(keep.suites)) < len(keep.suites):
        raise BadInput("A text stands twice under `keep.suites`.")
    if learn.data in keep.suites or (learn.evaluation is not None and learn.evaluation in keep.suites):
        raise BadInput("A text under `keep.suites` is also learnt from; what is kept has to be other text.")
    if SELF in (learn.data, learn.evaluation):
        raise BadInput("`self` is text that the base makes up: it can be kept and replayed, not learnt.")
