"""YAML to recipe and back: files, shipped recipes, overrides on the command line, and the resolved form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from holdfast._errors import BadInput, UnknownName
from holdfast.adapters.presets import PRESETS
from holdfast.governor import Governor
from holdfast.recipe.checking import checked, knobs_of, settings_of
from holdfast.recipe.schema import Keep, Recipe
from holdfast.recipe.training import learning_rate
from holdfast.rule import rules


def load(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file, the name of a shipped one, or a mapping; `overrides` are like `keep.budget=0.05`.

    Values of overrides are YAML; a rule is named (`rules.distill.strength=4`) or counted from 0 (`rules.1.share=0.5`).
    Without `output` the run goes to runs/ and the name of the file. Raises BadInput and UnknownName.
    """
    return checked(values(recipe, overrides))


def values(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a recipe (of a sequence as well: it has `tasks`), as `load` reads them, not yet checked."""
    if isinstance(recipe, Mapping):
        raw, name = dict(recipe), "run"
    else:
        raw, name = parse(_source(recipe), str(recipe)), Path(recipe).stem
    for override in overrides:
        raw = overridden(raw, override)
    return {"output": f"runs/{name}", **raw}


def shipped() -> dict[str, str]:
    """The recipes that come with the package, as text by name."""
    folder = files("holdfast") / "recipes"
    found = {Path(file.name).stem: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".yaml")}
    return dict(sorted(found.items()))


def _source(recipe: str | Path) -> str:
    path = Path(recipe).expanduser()
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The recipe {path} cannot be read: {error}.") from error
    if isinstance(recipe, str) and not path.suffix and "/" not in recipe:
        if recipe in shipped():
            return shipped()[recipe]
        raise UnknownName("file here, and no shipped recipe, called", recipe, shipped())
    raise BadInput(f"There is no recipe {path}. `holdfast recipes list` names those that come with Holdfast.")


class _Loader(yaml.SafeLoader):
    """YAML as one expects it: 1e-3 is a number, and a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"`{twice[0]}` stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse(text: str, name: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; raises BadInput with line and column."""
    value = _value(text, name)
    if not isinstance(value, dict):
        raise BadInput(f"{name} is not a recipe: a recipe is a mapping with `base`, `learn` and more, one key a line.")
    return value


def _value(text: str, name: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInput(f"{name}{place}: this is not YAML ({getattr(error, 'problem', None) or error}).") from error


def overridden(raw: Mapping[str, Any], override: str) -> dict[str, Any]:
    """The recipe's values with one of them replaced; missing mappings on the way are made."""
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise BadInput(f"{override!r} is no override. Write the key, an equals sign and the value: train.max_steps=50")
    whole = dict(raw)
    if path == "method.preset" and isinstance(whole.get("method"), Mapping):  # what is typed last wins
        said = PRESETS.get(text, {})
        whole["method"] = {key: value for key, value in whole["method"].items() if key not in said}
    _put(whole, path.split("."), _value(text, override), override)
    return whole


def _put(place: dict[str, Any], path: Sequence[str], value: Any, override: str) -> None:
    key, *rest = path
    if not rest:
        place[key] = value
        return
    inner = place.get(key)
    if isinstance(inner, list):
        into = _put_named if all(isinstance(entry, Mapping) and "name" in entry for entry in inner) else _put_rule
        into(place, key, rest, value, override)
        return
    short = {"learn": "data", "method": "name"}.get(key)
    if short and isinstance(inner, str):
        inner = {short: inner}
    if inner is not None and not isinstance(inner, dict):
        raise BadInput(f"{override!r}: `{key}` is {inner!r} in this recipe, and has no keys of its own.")
    place[key] = dict(inner or {})
    _put(place[key], rest, value, override)


def _put_rule(place: dict[str, Any], key: str, path: Sequence[str], value: Any, override: str) -> None:
    """Into an entry of a list of one-key mappings, found by that key or by its number."""
    entries = [{entry: None} if isinstance(entry, str) else dict(entry) for entry in place[key]]
    names = [next(iter(entry), "") for entry in entries]
    chosen = _chosen(names, key, path)
    _put(entries[chosen], [names[chosen], *path[1:]], value, override)
    place[key] = entries


def _put_named(place: dict[str, Any], key: str, path: Sequence[str], value: Any, override: str) -> None:
    """Into an entry of a list of mappings (tasks), found by its `name` or by its number."""
    entries = [dict(entry) for entry in place[key]]
    _put(entries[_chosen([entry["name"] for entry in entries], key, path)], path[1:], value, override)
    place[key] = entries


def _chosen(names: Sequence[str], key: str, path: Sequence[str]) -> int:
    chosen = [i for i, name in enumerate(names) if path[0] in (name, str(i))]
    if len(chosen) != 1 or len(path) < 2:
        kind = f"single entry of `{key}` in this recipe called"
        raise UnknownName(kind, ".".join(path), [*names, *map(str, range(len(names)))])
    return chosen[0]


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default written out, so that it means the same to a later version."""
    whole = written_out(recipe.model_dump(mode="json"))
    return {**whole, "train": {"learning_rate": learning_rate(recipe), **whole["train"]}}


def written_out(whole: Mapping[str, Any]) -> dict[str, Any]:
    """A checked recipe's plain values (a sequence's too) with the defaults of governor, method and rules."""
    keep, method = whole["keep"], dict(whole["method"])
    own = {key: value for key, value in keep.items() if key not in Keep.model_fields}
    name = method.pop("name")
    return {
        **whole,
        "keep": {**keep, **({} if keep["budget"] is None else _filled(Governor, own))},
        "method": {"name": name, **_plain(knobs_of(name)), **method},
        "rules": [{rule: _filled(rules[rule], given) for rule, given in entry.items()} for entry in whole["rules"]],
    }


def _filled(thing: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    return {**_plain(settings_of(thing)), **given}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if isinstance(v, bool | int | float | str | list | dict | None)}


def dump(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, in their order."""
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120))
