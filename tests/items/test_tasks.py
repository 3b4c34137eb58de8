"""Tasks: one prompt for training and evaluation, whole IDs, histories that lose their oldest items first."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from holdfast._errors import BadInput, UnknownName
from holdfast.base import load_tokenizer
from holdfast.data.formats import Completion
from holdfast.data.rows import rows, tokens
from holdfast.items.catalogue import Interaction
from holdfast.items.made_up import made_up
from holdfast.items.preferences import Preferences
from holdfast.items.tasks import AROUND, FIVE, TASKS, Prompts
from tests.items.shop import shop

ANN = Interaction("ann", ("1", "2", "3"), "6")
ONE, TWO, THREE = "<a_1><b_1><c_1>", "<a_1><b_2><c_1><d_1>", "<a_2><b_1><c_10>"
CUP, PLATE = 'Lily\'s "red" cup, 2"', "Tom blue\\plate"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    found = load_tokenizer("tiny")
    found.add_tokens([AddedToken(token, normalized=False) for token in made_up().vocabulary])
    return found


@pytest.mark.parametrize(
    ("task", "of", "prompt", "completion"),
    [
        ("history", ANN, f"History: {ONE}{TWO}{THREE}\nNext:", "<a_10><b_1><c_1>"),
        ("history", replace(ANN, target="2"), f"History: {ONE}{TWO}{THREE}\nNext:", TWO),
        ("history_to_title", ANN, f"History: {ONE}{TWO}{THREE}\nNext title:", " small lamp"),
        ("titles_to_id", ANN, f"Titles:\n{CUP}\n{PLATE}\nbig hat\nNext:", "<a_10><b_1><c_1>"),
        ("titles_to_title", ANN, f"Titles:\n{CUP}\n{PLATE}\nbig hat\nNext title:", " small lamp"),
        ("id_to_title", "2", f"Item: {TWO}\nTitle:", f" {PLATE}"),
        ("title_to_id", "2", f"Title: {PLATE}\nItem:", TWO),
        ("preference", replace(ANN, preference="a lamp"), "Wanted: a lamp\nNext:", "<a_10><b_1><c_1>"),
    ],
)
def test_each_task_is_put_into_words(task: str, of: Interaction | str, prompt: str, completion: str) -> None:
    assert Prompts(shop()).record(task, of) == Completion(prompt, completion)


def test_a_title_of_several_items_has_all_their_ids_as_right_answers() -> None:
    found = Prompts(shop()).record("title_to_id", "4")
    assert found.completion == "<a_2><b_1><c_2>"
    assert found.references == (THREE, "<a_2><b_1><c_2>")


@pytest.mark.parametrize("task", TASKS)
def test_the_prompt_of_evaluation_is_that_of_training(task: str) -> None:
    """The same rows as training and as test split give the same records, byte for byte, one by one and in a mixture."""
    twice = replace(shop(), splits={"train": (ANN,), "test": (ANN,)})
    training = Prompts(twice).mixture("train", {task: 1}, seed=7)
    evaluation = Prompts(twice).records(task, "test")
    assert Counter(training) == Counter(evaluation)
    of = ANN if not TASKS[task].of_items else "6"
    assert Prompts(twice).record(task, of) in evaluation


def test_rows_of_training_hold_the_prompt_of_evaluation_token_by_token(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = Prompts(made_up(), tokenizer=tokenizer, max_tokens=128)
    records = prompts.records("history", "test")[:20]
    for record, row in zip(records, rows(records, tokenizer, length=128), strict=True):
        ids = row["input_ids"]
        asked = tokens(tokenizer, record.prompt)
        assert ids[1 : 1 + len(asked)] == asked
        learnt = [i for i in row["labels"] if i != -100]
        assert tokenizer.convert_ids_to_tokens(learnt[:3]) == record.completion.replace("><", "> <").split()


def test_other_templates_are_taken_with_their_placeholder_alone() -> None:
    own = Prompts(shop(), templates={"history": "{{x}} {ids} / {ids} ?\n", "id_to_title": "{id}\n"})
    assert own.record("history", replace(ANN, history=("1",))).prompt == f"{{x}} {ONE} / {ONE} ?\n"
    assert own.record("id_to_title", "3") == Completion(f"{THREE}\n", "big hat")
    with pytest.raises(UnknownName, match=r"'histori'\. Did you mean 'history'"):
        Prompts(shop(), templates={"histori": "{ids}"})


@pytest.mark.parametrize(
    "template",
    ["no placeholder", "{ids} {title}", "{}", "{0}", "{ids.__class__}", "{ids[0]}", "{ids!r}", "{ids:>9}", "{ids", "}"],
)
def test_templates_that_would_go_wrong_are_refused(template: str) -> None:
    with pytest.raises(BadInput, match="The template of 'history'"):
        Prompts(shop(), templates={"history": template})


def test_a_history_keeps_its_last_items() -> None:
    assert Prompts(shop(), most_items=2).record("history", ANN).prompt == f"History: {TWO}{THREE}\nNext:"
    with pytest.raises(BadInput, match="most_items of at least 1"):
        Prompts(shop(), most_items=0)
    with pytest.raises(BadInput, match="a tokenizer where max_tokens"):
        Prompts(shop(), max_tokens=9)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(10, 60), st.sampled_from(["history", "titles_to_id", "titles_to_title", "history_to_title"]), st.data()
)
def test_the_oldest_items_go_first_and_no_more_than_must(
    tokenizer: PreTrainedTokenizerBase, limit: int, task: str, data: st.DataObject
) -> None:
    catalogue = made_up(users=20)
    row = data.draw(st.sampled_from(catalogue.splits["train"]))
    whole, prompts = Prompts(catalogue), Prompts(catalogue, tokenizer=tokenizer, max_tokens=limit)

    def size(record: Completion) -> int:
        return len(tokens(tokenizer, record.prompt + record.completion)) + AROUND

    cut = [whole.record(task, replace(row, history=row.history[i:])) for i in range(len(row.history))]
    fitting = [record for record in cut if size(record) <= limit]
    if fitting:
        assert prompts.record(task, row) == fitting[0]
    else:
        with pytest.raises(BadInput, match=f"does not fit into {limit} tokens"):
            prompts.record(task, row)


def test_records_that_cannot_fit_are_left_out_and_counted(
    tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    items = {**shop().items, "6": replace(shop().items["6"], title="long " * 99)}
    prompts = Prompts(replace(shop(), items=items), tokenizer=tokenizer, max_tokens=100)
    with caplog.at_level(logging.WARNING):
        assert len(prompts.records("id_to_title", "train")) == 5
    assert "id_to_title: 1 of 6 records do not fit into 100 tokens." in caplog.text


def test_by_default_the_mixture_has_every_record_of_the_guides_sets_once() -> None:
    prompts = Prompts(shop())
    found = prompts.mixture()
    assert Counter(found) == Counter(record for task in FIVE for record in prompts.records(task, "train"))
    assert len(found) == 4 * 3 + 2 * 6


def test_weights_say_how_often_a_record_comes() -> None:
    prompts = Prompts(made_up(users=20))
    ones, items = prompts.records("history", "train"), prompts.records("id_to_title", "train")
    found = Counter(prompts.mixture(tasks={"history": 2.5, "id_to_title": 0.25}))
    assert sum(found[record] for record in set(ones)) == 2 * len(ones) + round(0.5 * len(ones))
    assert sum(found[record] for record in items) == len(items) // 4
    assert set(found) <= {*ones, *items}


def test_a_mixture_is_shuffled_the_same_for_the_same_seed_and_no_task_moves_anothers_draw() -> None:
    prompts = Prompts(made_up(users=20))
    one = prompts.mixture(tasks={"history": 0.5}, seed=1)
    assert one == Prompts(made_up(users=20)).mixture(tasks={"history": 0.5}, seed=1)
    assert one != prompts.mixture(tasks={"history": 0.5}, seed=2)
    both = prompts.mixture(tasks={"id_to_title": 0.5, "history": 0.5}, seed=1)
    assert Counter(one) == Counter(record for record in both if record.prompt.startswith("History"))
    assert prompts.mixture(seed=1, size=9) == prompts.mixture(seed=1)[:9]
    assert one != sorted(one, key=prompts.records("history", "train").index)


@pytest.mark.parametrize("weights", [{}, {"history": 0}, {"history": -1}, {"history": float("inf")}])
def test_weights_that_say_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="positive weight"):
        Prompts(shop()).mixture(tasks=weights)


def test_wrong_names_and_wrong_things_are_said() -> None:
    prompts = Prompts(shop())
    with pytest.raises(UnknownName, match=r"'historie'\. Did you mean 'history'"):
        prompts.mixture(tasks={"historie": 1})
    with pytest.raises(UnknownName, match=r"'tset'\. Did you mean 'test'"):
        prompts.records("history", "tset")
    with pytest.raises(BadInput, match="'history' is about an interaction"):
        prompts.record("history", "1")
    with pytest.raises(BadInput, match="'id_to_title' is about an item id"):
        prompts.record("id_to_title", ANN)
    with pytest.raises(BadInput, match="no semantic IDs yet"):
        Prompts(shop(identifiers=False)).record("history", ANN)


def test_titles_alone_need_no_ids() -> None:
    assert Prompts(shop(identifiers=False)).record("titles_to_title", ANN).completion == " small lamp"


def test_preferences_are_made_from_the_history_alone() -> None:
    catalogue = made_up(users=20)
    preferences = Preferences(catalogue)
    for row in catalogue.splits["train"][:50]:
        told = preferences.told(row)
        assert told == preferences.told(replace(row, target="0", user="else"))
        had = " ".join(catalogue.title(item) for item in row.history).lower()
        brands, kinds, marks = told.split(": ")
        assert all(word.lower() in had for part in (brands, kinds, marks) for word in part.split(", "))
        assert len(row.history) > 1 or brands == catalogue.items[row.history[0]].brand
