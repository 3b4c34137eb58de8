"""Suites: from a folder, a file, a mapping, data or a name; and what is said of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast._errors import BadInput, UnknownName
from holdfast.base import Base, load_base
from holdfast.data.formats import Completion, Text
from holdfast.data.rows import completion, start
from holdfast.evaluation.metrics.branching import trees
from holdfast.evaluation.suites import DIMENSIONS, load_suite, load_suites, questions, shipped, unguarded

ITEMS = [{"prompt": f"{i} and {i} is", "answer": "even", "choices": ["odd", "even"]} for i in range(20)]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def folder(place: Path, written: list[dict[str, Any]] = ITEMS, **settings: Any) -> Path:
    place.mkdir(exist_ok=True)
    (place / "items.jsonl").write_text("\n".join(map(json.dumps, written)), "utf-8")
    (place / "suite.yaml").write_text(json.dumps({"data": "items.jsonl", **settings}), "utf-8")
    return place


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metirc": "loss"}, "key of a suite called 'metirc'. Did you mean 'metric'"),
        ({"metric": "choice_acuracy"}, "'choice_acuracy'. Did you mean 'choice_accuracy'"),
        ({"metric": {"choice_accuracy": {"normalized": True}}}, "knob of the metric 'choice_accuracy' called"),
        ({"dimension": "fact"}, "dimension called 'fact'. Did you mean 'facts'"),
        ({"role": "guard"}, "role"),
        ({"items": 0}, "items"),
        ({"items": "7"}, "items"),
        ({"margin": -0.1}, "margin"),
        ({"weight": 0}, "weight"),
        ({"metric": {"loss": {}, "perplexity": {}}}, "several metrics"),
        ({"kind": "lm_eval"}, "names no `task`"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_suite(folder(tmp_path / "own", **settings))
    assert said in str(caught.value)


def test_a_suite_is_its_folder_its_file_or_its_mapping(tmp_path: Path) -> None:
    place = folder(tmp_path / "sums", metric="choice_accuracy", dimension="reasoning")
    one, two = load_suite(place), load_suite(place / "suite.yaml")
    three = load_suite({"data": str(place / "items.jsonl"), "metric": "choice_accuracy", "name": "sums"})
    assert one.name == three.name == "sums"
    assert one.records == two.records == three.records
    assert load_suite(place, name="mine").name == "mine"


def test_a_bounded_suite_always_takes_the_same_items_in_their_order(tmp_path: Path) -> None:
    whole = load_suite(folder(tmp_path / "sums")).records
    bounded = [load_suite(folder(tmp_path / "sums", items=7)).records for _ in range(2)]
    assert bounded[0] == bounded[1]
    at = [whole.index(record) for record in bounded[0]]
    assert len(at) == 7
    assert at == sorted(at) != list(range(7))


def test_data_alone_are_scored_by_what_their_records_ask_for(tmp_path: Path) -> None:
    kinds = {
        "choice_accuracy": {"prompt": "a", "answer": "b", "choices": ["b", "c"]},
        "exact_match": {"prompt": "a", "answer": "b"},
        "loss": {"text": "Once upon a time"},
        "constraints": {"prompt": "a", "constraints": [{"name": "no_digits"}]},
    }
    for metric, record in kinds.items():
        file = tmp_path / f"{metric}.jsonl"
        file.write_text(json.dumps(record), "utf-8")
        assert load_suite(file).metric == (metric, {})


def test_a_template_makes_the_prompt_and_names_the_line_that_lacks_a_field(tmp_path: Path) -> None:
    items = [{"q": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]
    good = load_suite(folder(tmp_path / "good", items[:1], template="Q: {q}\nA:"))
    assert good.records == [Completion("Q: 1 + 1?\nA:", " 2")]
    bad = load_suite(folder(tmp_path / "bad", items, template="Q: {q}\nA:"))
    with pytest.raises(BadInput, match=r"items\.jsonl, line 2: the template asks for 'q'"):
        _ = bad.records


def test_groups_are_all_that_is_shipped_or_one_language() -> None:
    everything = {suite.name for suite in load_suites(["all"])}
    assert everything == set(shipped())
    english, chinese = ({suite.name for suite in load_suites([group])} for group in ("en", "zh"))
    assert english | chinese == everything
    assert not english & chinese
    assert all(name.endswith("-zh") for name in chinese)


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'facts-en'"):
        load_suites(["en", "facts-en"])
    with pytest.raises(BadInput, match="'own'"):
        load_suites([folder(tmp_path / "own"), {"name": "own", "data": "tiny/stories"}])


def test_a_name_or_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'facts-en'"):
        load_suite("fact-en")
    with pytest.raises(BadInput, match="nowhere"):
        _ = load_suite("./nowhere/at-all").records


def test_domain_knowledge_is_a_suite_of_questions(tmp_path: Path) -> None:
    file = tmp_path / "botany.json"
    known = {"domain_name": "plants", "questions": ["What is green?"], "ground_truths": ["A leaf"]}
    file.write_text(json.dumps(known), "utf-8")
    suite = load_suite(file)
    assert (suite.name, suite.metric[0]) == ("plants", "coverage")
    assert suite.records == [Completion("What is green?\n", "A leaf")]
    file.write_text(json.dumps({**known, "ground_truths": []}), "utf-8")
    with pytest.raises(BadInput, match="1 questions and 0 answers"):
        load_suite(file)


def test_a_chat_template_wraps_the_prompt_and_brings_no_second_beginning(base: Base) -> None:
    suite = questions("own", ["Where is the cat?"], ["here"])
    assert suite.asked(base) == suite.records
    chatty = load_base("tiny")
    chatty.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n{% endif %}"
    )
    (asked,) = suite.asked(chatty)
    assert isinstance(asked, Completion)
    assert asked.prompt == "[user] Where is the cat?\n[assistant]\n"
    before, _ = completion(asked, chatty.tokenizer)
    ids = start(chatty.tokenizer) + before
    assert ids.count(chatty.tokenizer.bos_token_id) == 1


def test_choices_keep_their_blank_or_lose_it_with_the_answer_in_a_chat(base: Base) -> None:
    """In a chat an answer begins without a blank; so the choices have to, or none of them is the answer."""
    chatty = load_base("tiny")
    chatty.tokenizer.chat_template = "{{ messages[0].content }}\n{% if add_generation_prompt %}A:\n{% endif %}"
    suite = load_suite({"data": "facts", "chat": True, "metric": "choice_accuracy"})
    suite = type(suite)(suite.name, suite.settings, None, (Completion("1 and 1 is", " even", (" odd", " even")),))
    (asked,) = suite.asked(chatty)
    assert isinstance(asked, Completion)
    assert asked.completion in asked.choices
    assert len(trees([asked], chatty.tokenizer, 512)[0].branches) == 2


def test_chance_is_what_guessing_scores(tmp_path: Path) -> None:
    items = [*ITEMS[:1], {"prompt": "x", "answer": "a", "choices": ["a", "b", "c", "d"]}]
    assert load_suite(folder(tmp_path / "own", items)).chance == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert load_suite("fluency-en").chance is None


def test_what_no_suite_guards_is_told() -> None:
    assert "safety" in unguarded([load_suite("facts-en")])
    assert unguarded([]) == sorted(DIMENSIONS)


def test_a_suite_shows_prompt_and_answer_to_people() -> None:
    assert load_suite("facts-en").shown(0) == ("The money that people pay with in Germany is called the", "euro")
    prompt, asked = load_suite("instructions-en").shown(0)
    assert prompt
    assert asked
    assert isinstance(load_suite("fluency-en").records[0], Text)


def test_a_score_is_the_same_for_any_batch_and_leaves_no_trace(base: Base) -> None:
    modes = [module.training for module in base.model.modules()]
    state = torch.get_rng_state()
    figures = []
    for size in (1, 16384):
        metric = {"choice_accuracy": {"batch_tokens": size, "normalised": True}}
        file = shipped()["facts-en"].joinpath("items.jsonl")
        figures.append(load_suite({"data": str(file), "items": 12, "metric": metric}).score(base).stats.tolist())
    assert figures[0] == figures[1]
    assert [module.training for module in base.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
