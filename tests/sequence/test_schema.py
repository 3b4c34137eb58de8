"""What a recipe with tasks may say, and the recipes of its runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.recipe.loading import dump, parse, written_out
from holdfast.sequence import load
from tests.sequence.small import recipe, values


def test_each_task_is_a_recipe_with_what_is_shared_and_what_is_its_own(tmp_path: Path) -> None:
    made = recipe(tmp_path, "tasks.sizes.train={max_steps: 5}", "tasks.2.length=16", "tasks.plays.rules=[frozen: {}]")
    first, second, third = (made.of(place) for place in range(3))
    assert first.train["max_steps"] == 3 and second.train["max_steps"] == 5
    assert first.learn.length == 32 and third.learn.length == 16
    assert [Path(one.output).name for one in (first, second, third)] == ["1-colours", "2-sizes", "3-plays"]
    assert third.rules == [{"frozen": {}}]


def test_the_first_task_replays_nothing_of_tasks_before_it(tmp_path: Path) -> None:
    stories = str(tmp_path / "stories.txt")
    made = recipe(tmp_path)
    assert made.of(0).rules == [{"replay": {"share": 0.5, "source": [stories]}}]
    assert made.of(1).rules == [{"replay": {"share": 0.5, "source": ["tasks", stories]}}]
    alone = recipe(tmp_path, "rules=[replay: {source: tasks}, distill: {}, ewc: {source: tasks, strength: 1.0}]")
    assert alone.of(0).rules == [{"replay": {"source": [], "share": 0.0}}, {"distill": {}}]
    assert [next(iter(rule)) for rule in alone.of(1).rules] == ["replay", "distill", "ewc"]


def test_importance_goes_from_task_to_task_where_the_rule_left_some(tmp_path: Path) -> None:
    rules = "rules=[ewc: {source: before, importance: before, decay: 0.9}, si: {importance: before}]"
    made = recipe(tmp_path, rules)
    left = [tmp_path / "run/1-colours", tmp_path / "run/2-sizes"]
    assert made.of(0).rules == [{"si": {"importance": None}}]
    ewc, si = made.of(1).rules
    assert ewc == {"ewc": {"source": "before", "importance": None, "decay": 0.9}}
    assert si == {"si": {"importance": str(left[0] / "si/importance.safetensors")}}
    assert [next(iter(rule.values()))["importance"] for rule in made.of(2).rules] == [
        str(left[1] / name / "importance.safetensors") for name in ("ewc", "si")
    ]


def test_earlier_adapters_are_those_of_all_tasks_so_far(tmp_path: Path) -> None:
    made = recipe(tmp_path, "rules=[olora: {adapters: tasks}]", "method=lora", "adapter=merge")
    assert made.of(0).rules == []
    finals = [str(tmp_path / "run" / name / "final") for name in ("1-colours", "2-sizes")]
    assert made.of(2).rules == [{"olora": {"adapters": finals}}]


def test_a_budget_is_for_texts_for_all_tasks_together_and_for_tasks_by_name(tmp_path: Path) -> None:
    made = recipe(tmp_path, "keep.budget=0.3")
    stories = str(tmp_path / "stories.txt")
    assert made.budget_of(stories) == made.budget_of("tasks") == 0.3 and made.budget_of("sizes") is None
    own = recipe(tmp_path, "keep.budget={tasks: 0.5, sizes: 0.2}")
    assert (own.budget_of(stories), own.budget_of("tasks"), own.budget_of("sizes")) == (None, 0.5, 0.2)


def test_a_budget_is_spent_evenly_unless_told_otherwise(tmp_path: Path) -> None:
    stories = str(tmp_path / "stories.txt")
    made = recipe(tmp_path, f"keep.budget={{'{stories}': 0.3, tasks: 0.5, colours: 0.2}}")
    shares = [[made.allowed(name, place) for place in range(3)] for name in (stories, "tasks", "colours")]
    logs = [[round(math.log1p(share or 0), 6) for share in row] for row in shares]
    for budget, row, parts in zip((0.3, 0.5, 0.2), logs, ((1 / 3, 2 / 3, 1), (0, 0.5, 1), (0, 0.5, 1)), strict=True):
        assert row == pytest.approx([math.log1p(budget) * part for part in parts], abs=1e-6)
    free = recipe(tmp_path, "keep.budget=0.3", "spend=freely")
    assert [free.allowed(stories, place) for place in range(3)] == [0.3] * 3


def test_references_have_no_rules_and_no_budget(tmp_path: Path) -> None:
    made = recipe(tmp_path, "keep.budget=0.3")
    joint, single = made.reference(None, 9), made.reference(1, 3)
    assert joint.rules == single.rules == [] and joint.keep.budget is None
    assert joint.train["max_steps"] == 9 and Path(single.output).name == "single-sizes"


def test_the_resolved_recipe_says_the_same_again(tmp_path: Path) -> None:
    made = recipe(tmp_path, "keep.budget=0.3")
    told = dump(written_out(made.model_dump(mode="json")))
    again = load(parse(told, "resolved"))
    assert written_out(again.model_dump(mode="json")) == written_out(made.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks.colours.nmae=x", "'name'"),
        ("tasks.colours.metric=exact", "tasks.0.metric"),
        ("tasks.nothing.items=4", "colours"),
        ("tasks.sizes.name=colours", "Two tasks"),
        ("tasks.sizes.name=a/b", "cannot be called"),
        ("tasks.sizes.name=tasks", "cannot be called"),
        ("keep.budget={sices: 0.1}", "'sizes'"),
        ("learn.data=x", "share under `learn`"),
        ("rules=[replai: {}]", "'replay'"),
        ("tasks.sizes.train={learningrate: 1}", "'learning_rate'"),
        ("tasks=[]", "`tasks`"),
        ("sped=evenly", "'spend'"),
        ("tasks.sizes.data=tiny/items", "catalogues of items, and sizes asks"),
        ("tasks.sizes.tasks={history: 1}", "catalogues of items, and sizes asks"),
        ("learn.templates={history: '{ids}'}", "catalogues of items, and colours, sizes, plays asks"),
        ("vocabulary={tokens: [<a_1>]}", "and `vocabulary` asks"),
        ("freeze_llm=true", "and `freeze_llm` asks"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(values(tmp_path), [override])


def test_an_unknown_key_of_a_sequence_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="reservoir"):
        load({**values(tmp_path), "resevoir": 3})


def test_words_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    twice = "rules=[ewc: {source: before, importance: before}, ewc: {source: before}]"
    with pytest.raises(BadInput, match="several `ewc`"):
        recipe(tmp_path, twice)
    with pytest.raises(BadInput, match="adapter: merge"):
        recipe(tmp_path, "method={name: lora}", "rules=[olora: {adapters: tasks}]")
