"""YAML to recipe and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from holdfast import sequence
from holdfast._errors import BadInput, UnknownName
from holdfast.recipe.loading import dump, load, overridden, parse, resolved, shipped
from tests.recipe.small import values


def test_every_shipped_recipe_is_valid_and_says_what_it_is_for() -> None:
    assert {"demo-plain", "demo-remedies", "demo-governed", "shakespeare", "shakespeare-lora"} <= set(shipped())
    for name, text in shipped().items():
        assert text.startswith("# ")
        made = sequence.load(name) if "tasks" in parse(text, name) else load(name)
        assert made.output == f"runs/{name}"


def test_the_demo_recipes_differ_in_what_they_show_only() -> None:
    plain, remedies, governed = (load(f"demo-{name}") for name in ("plain", "remedies", "governed"))
    assert plain.train == remedies.train == governed.train
    assert plain.learn == remedies.learn == governed.learn
    assert plain.rules == [] and not plain.keep.govern and not remedies.keep.govern and governed.keep.govern
    assert plain.keep.budget == remedies.keep.budget == governed.keep.budget == 0.02


def test_a_file_is_loaded_and_overridden(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: tiny\nlearn: some.txt\nmethod: lora\nrules:\n  - frozen\n  - l2sp: {strength: 1e-3}\n")
    recipe = load(
        file, ["method.rank=4", "learn.length=16", "rules.l2sp.strength=2", "rules.0.select='~norm'", "seed=3"]
    )
    assert recipe.learn.data == "some.txt" and recipe.learn.length == 16
    assert recipe.method.name == "lora" and recipe.method.arguments == {"rank": 4}
    assert recipe.rules == [{"frozen": {"select": "~norm"}}, {"l2sp": {"strength": 2}}]
    assert recipe.seed == 3 and recipe.output == "runs/mine"


def test_an_override_makes_what_is_missing_on_its_way_and_leaves_the_rest() -> None:
    before = {"base": "tiny", "train": {"max_steps": 3}}
    after = overridden(before, "keep.budget={self: 0.1}")
    assert after == {**before, "keep": {"budget": {"self": 0.1}}}
    assert overridden(after, "train.max_steps=5")["train"] == {"max_steps": 5}
    assert before == {"base": "tiny", "train": {"max_steps": 3}}


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=3", "base.x=3", "seed={"])
def test_an_override_that_cannot_be_read_says_so(override: str) -> None:
    with pytest.raises(BadInput, match=r"override|no keys of its own|not YAML"):
        overridden({"base": "tiny"}, override)


def test_an_override_of_a_rule_that_is_not_there_names_the_nearest() -> None:
    raw = {"rules": [{"distill": {"strength": 1}}, {"replay": {}}, {"replay": {}}]}
    with pytest.raises(UnknownName, match="distill"):
        overridden(raw, "rules.distil.strength=4")
    with pytest.raises(UnknownName):
        overridden(raw, "rules.replay.share=0.5")
    assert overridden(raw, "rules.2.share=0.5")["rules"][2] == {"replay": {"share": 0.5}}


def test_numbers_in_scientific_notation_are_numbers() -> None:
    assert parse("a: 1e-3\nb: 2E5\nc: 1.5e+2\nd: e5\n", "x") == {"a": 1e-3, "b": 2e5, "c": 150.0, "d": "e5"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: tiny\nbase: other", "line 1.*`base` stands twice"),
        ("base: [tiny", "line 1, column"),
        ("- base", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
    ],
)
def test_text_that_is_no_recipe_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse(text, "mine.yaml")


def test_a_recipe_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'shakespeare'"):
        load("shakespear")
    with pytest.raises(BadInput, match="recipes list"):
        load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"base: \xe4")
    with pytest.raises(BadInput, match="cannot be read"):
        load(tmp_path / "latin.yaml")


def test_the_resolved_recipe_is_the_recipe_with_its_defaults(tmp_path: Path) -> None:
    recipe = load(values(tmp_path), ["method.name=lora"])
    told = resolved(recipe)
    again = load(parse(dump(told), "again"))
    assert resolved(again) == told == yaml.safe_load(dump(told))
    assert again.method.arguments["rank"] == 8 and again.rules[0]["replay"]["share"] == 0.5
    assert again.keep.settings["confidence"] == 0.995 and again.keep.settings["every"] == 2
    assert "pad_id" not in dump(told) and "guards" not in dump(told)
