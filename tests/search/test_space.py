"""What is searched: the same draws for the same seed, only what a method has, and recipes that can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.adapters.method import methods
from holdfast.base import load_base
from holdfast.recipe import load
from holdfast.search import narrowed, read_space
from holdfast.search.candidates import carried, check_base, fitting, measures, own_parameters, shortened
from holdfast.search.space import Narrowed, Space, spanned
from holdfast.search.storage import sampler
from tests.search.conftest import small
from tests.search.conftest import space as wanted


def spanned_by(folder: Path, given: Narrowed) -> Space:
    recipe = load(small(folder))
    return spanned(recipe, fitting(recipe, given.methods)[0], *measures(load_base("tiny").model), given)


def draws(space: Space, seed: int, n: int = 30) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=RandomSampler(seed))
    return [space.suggest(study.ask()) for _ in range(n)]


def test_a_seed_draws_the_same_candidates(tmp_path: Path) -> None:
    space = spanned_by(tmp_path, wanted())
    assert draws(space, 1) == draws(space, 1) != draws(space, 2)


def test_the_sampler_draws_the_same_for_the_same_number(tmp_path: Path) -> None:
    space = spanned_by(tmp_path, wanted())

    def asked(number: int) -> dict[str, Any]:
        return space.suggest(optuna.create_study(directions=["minimize"] * 2, sampler=sampler(5, number)).ask())

    assert asked(3) == asked(3) != asked(4)


def test_candidates_have_what_their_method_has_and_stay_inside(tmp_path: Path) -> None:
    space = spanned_by(tmp_path, wanted(rank=[2, 6], rules={"l2sp.strength": [3, 3]}))
    drawn = draws(space, 0)
    assert {params["method"] for params in drawn} == {"full", "lora"}
    for params in drawn:
        own = {"targets", "rank", "alpha"} if params["method"] == "lora" else set()
        assert params.keys() == {"method", "layers", "rate", "replay.share", "l2sp.strength"} | own
        assert 2 <= params.get("rank", 2) <= 6 and params["l2sp.strength"] == 3
        assert 0.0625 <= params["replay.share"] <= 0.5 and space.holds(params)
    assert not space.holds({**drawn[0], "rate": 99.0}) and not space.holds({**drawn[0], "method": "ia3"})


def test_every_candidate_is_a_recipe_that_can_be_read(tmp_path: Path) -> None:
    raw = small(tmp_path)
    space = spanned_by(tmp_path, wanted())
    for params in draws(space, 0, 12):
        recipe = load(shortened(carried(raw, space, params), 2, 4))
        assert recipe.method.name == params["method"] and recipe.train["max_steps"] == 2
        tenth = methods.traits(params["method"]).rate / methods.traits("lora").rate
        assert recipe.train["learning_rate"] == pytest.approx(1e-2 * params["rate"] * tenth, rel=1e-3)
        assert recipe.rules[0]["replay"]["share"] == pytest.approx(params["replay.share"], rel=1e-3)
        assert recipe.rules[1]["l2sp"]["strength"] == pytest.approx(params["l2sp.strength"], rel=1e-3)
        assert not recipe.keep.govern
        frozen = [given["select"] for entry in recipe.rules for name, given in entry.items() if name == "frozen"]
        if params["method"] == "full":
            assert frozen == ([] if params["layers"] == "0:5" else [f"~layers({params['layers']})"])
        else:
            assert recipe.method.arguments["alpha"] == pytest.approx(params["alpha"] * params["rank"], rel=1e-3)
            told = recipe.method.arguments.get("layers")
            assert told == (None if params["layers"] == "0:5" else f"layers({params['layers']})")


def test_the_recipe_itself_is_a_point_of_its_space(tmp_path: Path) -> None:
    raw = small(tmp_path)
    space = spanned_by(tmp_path, wanted())
    own = own_parameters(space, load(raw))
    assert own == {
        "method": "lora",
        "targets": "mlp",
        "layers": "0:5",
        "rank": 4,
        "alpha": 2.0,
        "rate": 1.0,
        "replay.share": 0.25,
        "l2sp.strength": 1.0,
    }
    again = load(carried(raw, space, own))
    assert again.train == load(raw).train and again.rules == load(raw).rules
    assert own_parameters(spanned_by(tmp_path, wanted(rank=[8, 16])), load(raw)) is None
    assert carried(raw, space, {}) == raw
    raw["method"]["dropout"] = 0.1  # is not searched, and stays where the method does
    assert own_parameters(space, load(raw)) == own and load(carried(raw, space, own)).method.arguments["dropout"] == 0.1


def test_a_shorter_run_shortens_what_counts_steps(tmp_path: Path) -> None:
    raw = small(tmp_path)
    raw["train"] |= {"max_steps": 90, "warmup_steps": 18}
    raw["rules"] += [{"frozen": {"select": "embedding", "during": [0, 45]}}, {"l2sp": {"progressive": 9}}]
    recipe = load(shortened(raw, 10, 90))
    assert recipe.train["warmup_steps"] == 2
    assert recipe.rules[2]["frozen"]["during"] == [0, 5] and recipe.rules[3]["l2sp"]["progressive"] == 1
    assert raw["train"]["warmup_steps"] == 18 and raw["rules"][2]["frozen"]["during"] == [0, 45]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"methods": ["lor"]}, "lora"),
        ({"methods": ["lora"], "rules": {"ewc.strength": [1, 2]}}, "l2sp.strength"),
        ({"methods": ["lora"], "layers": ["3:9"]}, "from 0 to 5"),
        ({"methods": ["lora"], "rules": {"replay.share": [0.2, 1.0]}}, "share of replay"),
    ],
)
def test_a_space_that_the_recipe_does_not_have_is_refused(tmp_path: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        spanned_by(tmp_path, narrowed(given))


def test_a_space_file_with_a_fault_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("rank: [2, 8]\nrate: [0.5, 2]\n", "utf-8")
    assert read_space(file).rank == (2, 8) and read_space(file).methods is None
    for text, error, told in (
        ("ranks: [2, 8]", UnknownName, "'rank'"),
        ("rank: [8, 2]", BadInput, "lower bound first"),
        ("rate: [0, 2]", BadInput, "above 0"),
        ("rate: fast", BadInput, "rate"),
    ):
        file.write_text(text, "utf-8")
        with pytest.raises(error, match=told):
            read_space(file)
    with pytest.raises(BadInput, match="cannot be read"):
        read_space(tmp_path / "none.yaml")


def test_methods_that_a_base_cannot_take_are_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(model: Any, *, size: int, seed: int = 0) -> Any:
        return model

    monkeypatch.setitem(methods._entries, "odd", odd)
    monkeypatch.setitem(methods._traits, "odd", methods.traits("lora"))
    found, refused = fitting(load(small(tmp_path)), ["full", "odd"])
    assert list(found) == ["full"] and refused == {"odd": "it needs size"}


def test_what_has_little_to_search_is_refused(tmp_path: Path) -> None:
    recipe = load(small(tmp_path))
    check_base(recipe, adapted=False)
    with pytest.raises(BadInput, match="is an adapter"):
        check_base(recipe, adapted=True)
    learn = recipe.learn.model_copy(update={"task": "classify"})
    with pytest.raises(Unsupported, match="classifier"):
        check_base(recipe.model_copy(update={"learn": learn}), adapted=False)


def test_targets_are_searched_where_they_may_be_a_selection(tmp_path: Path) -> None:
    found, _ = fitting(load(small(tmp_path)), ["lora", "ia3", "osf", "bottleneck", "full"])
    assert {name for name, takes in found.items() if "targets" in takes} == {"lora", "ia3", "osf"}
    assert "layers" in found["bottleneck"]
