"""What a recipe may say, and what is answered to anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.recipe.checking import checked
from holdfast.recipe.loading import overridden
from tests.recipe.small import values


def changed(folder: Path, *overrides: str) -> dict[str, Any]:
    raw = values(folder)
    for override in overrides:
        raw = overridden(raw, override)
    return raw


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("bas=tiny", "base"),
        ("learn.dta=x", "data"),
        ("keep.bugdet=0.1", "budget"),
        ("keep.confidense=0.9", "confidence"),
        ("method.rnk=4", "rank"),
        ("method.name=lorra", "lora"),
        ("train.learning_rat=1", "learning_rate"),
        ("rules.distill.strenth=1", "strength"),
        ("rules=[frozzen]", "frozen"),
        ("monitor.evry=3", "every"),
        ("samples.olds=[a]", "old"),
        ("keep.budget={selff: 0.1}", "self"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path, override: str, nearest: str) -> None:
    raw = changed(tmp_path, "method.name=lora", override)
    with pytest.raises(UnknownName, match=f"Did you mean .*'{nearest}'"):
        checked(raw)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("keep.budget=0", r"`keep\.budget` cannot be used: input should be greater than 0, not 0"),
        ("keep.budget=-0.1", "greater than 0"),
        ("keep.budget={self: 0}", "greater than 0"),
        ("keep.budget=.nan", "finite"),
        ("keep.rows=2", "greater than or equal to 8"),
        ("learn.length=1", "greater than or equal to 2"),
        ("learn.length=12.5", "valid integer"),
        ("learn.start=never", "'auto', 'bos' or 'none'"),
        ("seed=-1", "greater than or equal to 0"),
        ("rules=[3]", "valid dictionary"),
        ("train.output_dir=x", "output: runs/name"),
        ("train.seed=3", "at the top"),
        ("rules=[governor]", "under `keep`"),
        ("rules=[monitor]", "under `monitor`"),
        ("rules=[replay]", "needs `source`"),
        ("rules.distill.every=often", "a number of steps"),
        ("rules=[frozen: {during: 3}]", "a pair"),
        ("learn.data=self", "made? up|makes up"),
    ],
)
def test_a_value_that_cannot_be_used_says_why(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        checked(changed(tmp_path, override))


@pytest.mark.parametrize("budget", ["0", "-0.1", "{self: 0}"])
def test_a_budget_of_nothing_says_what_to_do_instead(tmp_path: Path, budget: str) -> None:
    with pytest.raises(BadInput, match=r"0\.001 .*freeze"):
        checked(changed(tmp_path, f"keep.budget={budget}"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="lacks `base`"):
        checked({k: v for k, v in values(tmp_path).items() if k != "base"})
    with pytest.raises(BadInput, match=r"lacks `learn\.data`"):
        checked({**values(tmp_path), "learn": {}})


def test_a_budget_needs_something_to_keep(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to keep"):
        checked(changed(tmp_path, "keep.probe=none", "keep.suites=[]"))


def test_what_is_learnt_is_not_also_guarded(tmp_path: Path) -> None:
    raw = values(tmp_path)
    with pytest.raises(BadInput, match="also learnt"):
        checked({**raw, "learn": {"data": raw["keep"]["suites"][0]}})
    with pytest.raises(BadInput, match="twice"):
        checked({**raw, "keep": {"suites": raw["keep"]["suites"] * 2}})


def test_a_budget_is_one_for_all_texts_or_one_each(tmp_path: Path) -> None:
    keep = checked(changed(tmp_path, "keep.budget={self: 0.1}")).keep
    old = keep.suites[0]
    assert keep.texts == ["self", old] and keep.budget_of("self") == 0.1 and keep.budget_of(old) is None
    assert checked(values(tmp_path)).keep.budget_of(old) == 0.9


def test_a_preset_stands_for_a_method_and_what_is_said_beside_it_wins(tmp_path: Path) -> None:
    def method(**said: Any) -> dict[str, Any]:
        made = checked({**values(tmp_path), "method": said}).method
        return {"name": made.name, **made.arguments}

    assert method(preset="small") == {"name": "lora", "rank": 4, "alpha": 8}
    assert method(preset="xlarge", targets="attention") == {
        "name": "lora", "rank": 32, "alpha": 64, "targets": "attention",
    }  # fmt: skip
    assert method(preset="forgets-least", rank=4) == {"name": "adalora", "rank": 4, "targets": "mlp"}
    assert method(preset="large", rank=2) == {"name": "lora", "rank": 2}
    with pytest.raises(UnknownName, match="medium"):
        method(preset="mediun")
    with pytest.raises(BadInput, match="other name"):
        method(preset="small", name="full")


def test_a_run_is_stopped_early_by_a_text_that_is_there_and_not_under_a_governor(tmp_path: Path) -> None:
    early = {**values(tmp_path), "early_stopping": {"metric": "learn"}}
    with pytest.raises(UnknownName, match="learnt"):
        checked(early)
    with pytest.raises(BadInput, match="governor stops"):
        checked({**early, "early_stopping": {"patience": 2}})
    with pytest.raises(BadInput, match=r"settles `train\.eval_steps`"):
        checked({**early, "train": {"eval_steps": 3}, "early_stopping": {}, "keep": {"probe": "none"}})
    assert checked({**early, "early_stopping": {}, "keep": {"probe": "none"}}).early_stopping.patience == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(("method", "said"), [
    ({"name": "lora", "rank": "eight"}, r"`method\.rank` cannot be used: it is a whole number"),
    ({"name": "lora", "rank": 2.5}, "whole number"),
    ({"name": "lora", "dora": "ja"}, "true or false"),
    ({"name": "prompt", "text": 5}, "text"),
    ({"name": "vera", "r": "x"}, "whole number"),
    ({"name": "ptuning2", "tokens": "abc"}, "whole number"),
    ({"name": "lora", "r": 8}, "`r` is `rank` here"),
    ({"name": "lora", "target_modules": ["q_proj"]}, "is `targets` here"),
    ({"name": "dora"}, "dora: true"),
    ({"name": "prefix_tuning"}, "ptuning2"),
])  # fmt: skip
def test_settings_of_a_method_are_checked_by_their_types_and_other_projects_names_are_answered(
    tmp_path: Path, method: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        checked({**values(tmp_path), "method": method})
    for fine in ({"name": "lora", "targets": ["q_proj"], "alpha": 8}, {"name": "lora", "targets": "mlp", "alpha": 1.5}):
        checked({**values(tmp_path), "method": fine})


def test_a_preset_that_is_typed_last_wins(tmp_path: Path) -> None:
    raw = overridden(
        {**values(tmp_path), "method": {"name": "lora", "rank": 8, "targets": "mlp"}}, "method.preset=small"
    )
    made = checked(raw).method
    assert made.arguments == {"rank": 4, "alpha": 8, "targets": "mlp"}
