"""What a taught model recommends, against a plain reading of every item; and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from holdfast._errors import BadInput, UnknownName
from holdfast.base import load_base
from holdfast.items.catalogue import Interaction
from holdfast.items.index_files import INDEX
from holdfast.items.trie import Trie
from holdfast.items.writing import write
from holdfast.recipe.recommender import Recommender, open_recommender
from holdfast.recipe.recommending import Query, likeliest, of_items, of_titles, of_user, recommend_items
from tests.recipe.taught import once, shop


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def model(run: Path) -> Recommender:
    return open_recommender(run)


def read_one_by_one(model: Recommender, prompt: str) -> dict[str, float]:
    """The log-probability of each item's ID after a prompt, each read for itself."""
    tokenizer, found = model.base.tokenizer, {}
    begin = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        for item, tokens in model.catalogue.tokens.items():
            ids = tokenizer.convert_tokens_to_ids(list(tokens))
            logits = model.base.model(torch.tensor([begin + ids])).logits[0, -len(ids) - 1 : -1]
            found[item] = float(logits.log_softmax(-1)[range(len(ids)), ids].sum())
    return found


def test_items_and_probabilities_are_those_of_reading_every_item(model: Recommender) -> None:
    query = of_items(model, ["3", "40", "7"])
    (found,) = recommend_items(model, [query], k=8, beams=400)
    plain = read_one_by_one(model, model.prompt("history", Interaction("", query.history, "0")))
    best = sorted(plain, key=lambda item: -plain[item])[:8]
    assert [one.item for one in found] == best
    assert [one.probability for one in found] == pytest.approx(
        [float(torch.tensor(plain[i]).exp()) for i in best], rel=1e-3
    )
    assert [one.rank for one in found] == list(range(1, 9))
    assert [one.title for one in found] == [model.catalogue.title(item) for item in best]


@pytest.mark.parametrize("task", ["history", "titles_to_id"])
def test_the_words_are_those_of_training_and_know_nothing_of_the_target(model: Recommender, task: str) -> None:
    rows = model.catalogue.split("train")[:50]
    assert [model.prompt(task, row) for row in rows] == [model.prompts.record(task, row).prompt for row in rows]
    other = [replace(row, target="0") for row in rows]
    assert [model.prompt(task, row) for row in other] == [model.prompt(task, row) for row in rows]


def test_a_users_history_is_their_last_with_what_came_then(model: Recommender) -> None:
    last = model.catalogue.split("test")[-1]
    assert of_user(model, last.user).history == (*last.history, last.target)
    with pytest.raises(BadInput, match=r"There is no user 'nobody'.*--items"):
        of_user(model, "nobody")


def test_items_have_to_be_of_the_catalogue(model: Recommender) -> None:
    with pytest.raises(BadInput, match=r"There is no item '999'.*336 items"):
        of_items(model, ["3", "999"])
    with pytest.raises(BadInput, match="at least one item"):
        of_items(model, [])


def test_titles_stand_for_their_items_and_others_are_words(model: Recommender) -> None:
    names = [model.catalogue.title(item) for item in ("3", "40")]
    known, strange = of_titles(model, names), of_titles(model, [names[0], " a  thing of nobody "])
    found = recommend_items(model, [known, strange, of_items(model, ["3", "40"])], k=5)
    prompt = model.prompt("titles_to_id", Interaction("", ("3", "40"), "0"))
    assert [(o.item, pytest.approx(o.probability)) for o in found[0]] == [
        (item, pytest.approx(float(torch.tensor(score).exp())))
        for item, score in likeliest(model, [prompt], 5, 50, None, None, lambda line: None)[0]
    ]
    prompts, (history,) = model.titled([strange.history])
    told = model.prompt("titles_to_id", Interaction("", history, "0"), prompts)
    assert told == f"Titles:\n{names[0]}\na thing of nobody\nNext:"
    assert [o.item for o in found[1]] and found[1] != found[0]


def test_items_and_users_are_asked_in_the_words_of_any_task_that_was_learnt(model: Recommender) -> None:
    titles = of_titles(model, [model.catalogue.title(item) for item in ("3", "40")])
    items = of_items(model, ["3", "40"], "titles_to_id")
    assert items.task == "titles_to_id" and of_items(model, ["3"]).task == "history"
    by_titles, by_items = recommend_items(model, [titles, items], k=5)
    assert by_items == by_titles
    assert of_user(model, model.catalogue.split("test")[0].user, "titles_to_id").task == "titles_to_id"
    with pytest.raises(BadInput, match="did not learn the task 'preference'"):
        of_items(model, ["3"], "preference")


def test_what_was_seen_is_left_out_where_it_is_asked_for(model: Recommender) -> None:
    (first,) = recommend_items(model, [of_items(model, ["3"])], k=2)
    history = [first[0].item, first[1].item]
    (without,) = recommend_items(model, [of_items(model, history)], k=334, exclude_seen=True, beams=400)
    assert len(without) == 334
    assert not set(history) & {one.item for one in without}


def test_items_that_share_an_id_come_by_how_often_they_were_chosen(model: Recommender) -> None:
    rare, often = sorted(model.catalogue.items, key=lambda item: model.counts.get(item, 0))[
        :: len(model.catalogue.items) - 1
    ]
    assert model.counts.get(rare, 0) < model.counts[often]
    tokens = {**model.catalogue.tokens, rare: model.catalogue.tokens[often]}
    items = model.catalogue.with_tokens(tokens)
    shared = replace(model, catalogue=items, trie=Trie.from_tokens(items.tokens, model.base.tokenizer))
    (found,) = recommend_items(shared, [Query("", ("3",))], k=336, beams=400)
    order = [one.item for one in found]
    assert order.index(rare) == order.index(often) + 1
    place = order.index(often) + 1
    assert [one.item for one in recommend_items(shared, [Query("", ("3",))], k=place, beams=400)[0]] == order[:place]


def test_a_task_has_to_recommend_and_to_be_learnt(model: Recommender) -> None:
    with pytest.raises(UnknownName, match="id_to_title"):
        model.check_task("id_to_title")
    with pytest.raises(BadInput, match=r"did not learn the task 'preference'.*history or titles_to_id"):
        model.check_task("preference")


def test_final_opens_as_its_run_does(run: Path, model: Recommender) -> None:
    inside = open_recommender(run / "final")
    assert inside.folder == run and inside.learnt == model.learnt
    assert inside.base.digest == model.base.digest


def test_of_an_export_in_two_forms_the_plain_model_opens(run: Path, model: Recommender, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "complete.json").write_text("{}")
    grown = load_base("tiny")
    grown.model.resize_token_embeddings(len(model.base.tokenizer))
    grown.model.save_pretrained(tmp_path / "merged")
    model.base.tokenizer.save_pretrained(tmp_path / "merged")
    shutil.copy(run / "recipe.yaml", tmp_path / "merged")
    whole = open_recommender(tmp_path)
    assert (whole.folder, whole.learnt) == (tmp_path / "merged", model.learnt)


def test_items_may_have_moved(run: Path, model: Recommender, tmp_path: Path) -> None:
    write(shop(), tmp_path)
    moved = open_recommender(run, data=tmp_path)
    assert moved.catalogue.source == str(tmp_path)
    query = [Query("", ("3", "9"))]
    assert recommend_items(moved, query, k=5) == recommend_items(model, query, k=5)


def test_a_model_without_a_recipe_needs_items_and_knows_no_tokens_of_theirs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"tiny brings no recipe.yaml.*--data FOLDER"):
        open_recommender("tiny")
    with pytest.raises(BadInput, match=r"There is no folder .*nowhere here"):
        open_recommender(tmp_path / "nowhere")
    write(shop(), tmp_path)
    with pytest.raises(BadInput, match="The tokenizer has no token '<a_0>'"):
        open_recommender("tiny", data=tmp_path)


def test_items_without_ids_are_sent_to_be_given_some(run: Path, tmp_path: Path) -> None:
    write(replace(shop(), tokens={}), tmp_path)
    with pytest.raises(BadInput, match=r"have no semantic IDs yet.*holdfast sid build"):
        open_recommender(run, data=tmp_path)


def test_an_index_has_to_fit_the_catalogue(run: Path, tmp_path: Path) -> None:
    write(shop(), tmp_path)
    index = tmp_path / "index" / f"made-up{INDEX}"
    told = json.loads(index.read_text())
    told.pop("7")
    index.write_text(json.dumps(told))
    with pytest.raises(BadInput, match="item '7' has no semantic ID"):
        open_recommender(run, data=tmp_path)


def test_a_run_without_items_or_without_an_end_is_refused(run: Path, tmp_path: Path) -> None:
    told = (run / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(told)
    with pytest.raises(BadInput, match=r"no finished run.*no final/"):
        open_recommender(tmp_path)
    (tmp_path / "recipe.yaml").write_text("base: tiny\nlearn: {data: tiny/shakespeare}\noutput: x\n")
    with pytest.raises(BadInput, match="tiny/shakespeare, which holds no items"):
        open_recommender(tmp_path)
