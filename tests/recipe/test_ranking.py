"""The evaluation of a taught model: its figures against a loop over cases, its pairs, and what it says of language."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from holdfast._errors import BadInput, UnknownName
from holdfast.items.baselines import popular, recommended
from holdfast.items.tasks import Prompts
from holdfast.items.trie import Trie
from holdfast.recipe import load, ranking
from holdfast.recipe.ranking import PICTURE, check_recommends, drawn, evaluate_items, write_recommendations
from holdfast.recipe.ranking_table import render_ranking
from holdfast.recipe.recommender import Recommender, open_recommender
from holdfast.recipe.recommending import likeliest
from tests.recipe.taught import once, taught, values


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return open_recommender(once(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def found(model: Recommender) -> dict[str, Any]:
    return evaluate_items(model, cases=12, ks=(1, 10))


def test_hits_and_gains_are_those_of_a_loop_over_the_cases(model: Recommender, found: dict[str, Any]) -> None:
    cases = drawn(model.catalogue.split("test"), 12, 0)
    prompts = [model.prompt("history", case) for case in cases]
    lists = likeliest(model, prompts, 10, 50, None, None, lambda line: None)
    gains = []
    for case, one in zip(cases, lists, strict=True):
        items = [item for item, _ in one]
        gains.append(1 / np.log2(items.index(case.target) + 2) if case.target in items else 0.0)
    told = found["rankings"]["model"]["by_item"]
    assert told["ndcg@10"]["mean"] == pytest.approx(np.mean(gains))
    assert told["hr@10"]["mean"] == pytest.approx(np.mean([gain > 0 for gain in gains]))
    assert found["rankings"]["model"]["valid"] == 1.0


def test_baselines_learn_from_training_and_are_asked_the_same(model: Recommender, found: dict[str, Any]) -> None:
    assert {*found["rankings"]} == {"model", "popularity", "successor", "own history", "together"}
    assert {one["cases"] for one in found["rankings"].values()} == {12}
    rank, cases = popular(model.catalogue.split("train")), drawn(model.catalogue.split("test"), 12, 0)
    hits = np.mean([case.target in rank(case.history, 10) for case in cases])
    assert found["rankings"]["popularity"]["by_item"]["hr@10"]["mean"] == pytest.approx(hits)


@pytest.mark.parametrize("measure", ["hr@1", "hr@10", "ndcg@10"])
def test_the_model_is_paired_with_the_baseline_that_does_best(found: dict[str, Any], measure: str) -> None:
    means = {name: one["by_item"][measure]["mean"] for name, one in found["rankings"].items()}
    above = found["above"][measure]
    assert means[above["baseline"]] == max(mean for name, mean in means.items() if name != "model")
    assert above["mean"] == pytest.approx(means["model"] - means[above["baseline"]])
    assert above["low"] <= above["mean"] <= above["high"]


def test_where_only_new_rows_trained_old_tokens_are_as_they_were(model: Recommender, found: dict[str, Any]) -> None:
    language = found["language"]
    assert (language["old_tokens"], language["old_row"]) == (512, 0.0)
    (text,) = language["texts"]
    assert text["old_tokens"]["logit"] == text["old_tokens"]["rise"] == 0.0
    assert model.folder is not None
    (certified,) = json.loads((model.folder / "certificate.json").read_text())["kept"]
    assert text["certificate"] == certified
    assert text["old_tokens"]["n"] == certified["n"]


@pytest.mark.slow
def test_where_everything_trained_the_old_tokens_moved(tmp_path: Path) -> None:
    run = taught(tmp_path, freeze_llm=False)
    found = evaluate_items(open_recommender(run), cases=4, ks=(10,))
    (text,) = found["language"]["texts"]
    assert text["old_tokens"]["logit"] > 0.1
    assert found["language"]["old_row"] > 1e-3
    assert text["old_tokens"]["rise"] > 0
    assert text["certificate"]["rise"] > text["old_tokens"]["rise"] - 1e-6  # new tokens take probability on top


def test_seen_items_are_left_out_for_all_alike(model: Recommender) -> None:
    found = evaluate_items(model, cases=12, ks=(10,), exclude_seen=True, language=False)
    assert found["rankings"]["own history"]["by_item"]["hr@10"]["mean"] == 0
    assert found["language"] is None and found["exclude_seen"]


def test_cases_are_drawn_by_the_seed(model: Recommender) -> None:
    rows = model.catalogue.split("test")
    assert drawn(rows, 5, 3) == drawn(rows, 5, 3) != drawn(rows, 5, 4)
    assert [rows.index(row) for row in drawn(rows, 5, 3)] == sorted(rows.index(row) for row in drawn(rows, 5, 3))
    assert drawn(rows, 10_000, 3) == list(rows)
    with pytest.raises(BadInput, match="At least one case"):
        drawn(rows, 0, 0)


def test_cases_that_do_not_fit_are_left_out_and_counted(model: Recommender) -> None:
    cases, most = model.catalogue.split("test"), 32
    short = Prompts(model.catalogue, tokenizer=model.base.tokenizer, max_tokens=most)
    found = evaluate_items(replace(model, prompts=short), task="titles_to_id", ks=(10,), language=False)
    texts = [f"Titles:\n{model.catalogue.title(case.history[-1])}\nNext:" for case in cases]
    lengths = [len(ids) + 3 + 2 for ids in model.base.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    assert found["cases"]["unfit"] == sum(length > most for length in lengths) > 0
    assert found["rankings"]["model"]["cases"] == sum(length <= most for length in lengths) > 0


def test_it_is_written_whole_and_drawn(found: dict[str, Any], tmp_path: Path) -> None:
    written = write_recommendations(found, tmp_path / "new")
    assert json.loads(written.read_text())["above"] == found["above"]
    assert (tmp_path / "new" / PICTURE).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {written.name, PICTURE}


def test_what_was_asked_otherwise_never_takes_the_place_of_what_is_there(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "ranking_picture", lambda found, target: target.touch())

    def written(**changed: Any) -> str:
        return write_recommendations({**found, **changed}, tmp_path, replace=False).name

    write_recommendations({**found, "examples": ["kept"], "seconds": 0}, tmp_path)
    assert written(split="valid") == "recommendations-valid.json"
    assert written(split="valid", ks=[3]) == "recommendations-valid-2.json"
    assert written(cases={**found["cases"], "drawn": 5}) == "recommendations-test.json"
    assert written(split="valid") == "recommendations-valid.json"
    assert json.loads((tmp_path / "recommendations.json").read_text())["seconds"] == 0
    assert written() == "recommendations.json"
    again = json.loads((tmp_path / "recommendations.json").read_text())
    assert (again["seconds"], again["examples"]) == (found["seconds"], ["kept"])
    assert (tmp_path / "recommendations-valid-2.png").is_file()


def test_only_what_does_not_fit_is_left_out(model: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Prompts, task: str, of: object) -> None:
        raise BadInput("this template cannot be filled")

    monkeypatch.setattr(Prompts, "record", broken)
    with pytest.raises(BadInput, match="cannot be filled"):
        evaluate_items(model, cases=2, ks=(1,), language=False)


@pytest.mark.slow
def test_the_largest_k_counts_as_many_ids_as_it_says(model: Recommender) -> None:
    """Pairs of items share an ID: of two IDs come four items, of which two count by item."""
    tokens = {item: model.catalogue.tokens[str(int(item) // 2 * 2)] for item in model.catalogue.items}
    items = model.catalogue.with_tokens(tokens)
    paired = replace(model, catalogue=items, trie=Trie.from_tokens(items.tokens, model.base.tokenizer))
    cases = drawn(items.split("test"), 3, 0)
    lists = likeliest(paired, [model.prompt("history", case) for case in cases], 2, 8, None, None, lambda line: None)
    assert [len({items.sid(item) for item, _ in one}) for one in lists] == [2, 2, 2]
    assert [len(one) for one in lists] == [4, 4, 4]
    found = evaluate_items(paired, cases=3, ks=(2,), beams=8, language=False)
    assert {one["shortest_list"] for name, one in found["rankings"].items() if name != "own history"} == {2}
    twice = popular(items.split("train"))
    (shown,) = recommended(twice, cases[:1], 40, items.sid)
    assert len({items.sid(item) for item in shown}) >= 40 > len({items.sid(item) for item in twice(("1",), 40)})


def test_the_table_tells_figures_segments_and_language(found: dict[str, Any]) -> None:
    with (console := Console(width=80)).capture() as captured:
        console.print(render_ranking(found))
    told = captured.get()
    for name in ("HR@10 cold", "HR@10 by ID", "own history", "coverage@10", "old logit", "old row", "12 of 39 cases"):
        assert name in " ".join(told.split()), name
    assert all(len(line) <= 80 for line in told.splitlines())


def test_settings_out_of_range_and_missing_splits_are_refused(model: Recommender) -> None:
    with pytest.raises(UnknownName, match=r"split .*'dev'"):
        evaluate_items(model, split="dev")
    with pytest.raises(BadInput, match="K is a number"):
        evaluate_items(model, ks=(0,))
    untrained = replace(model, catalogue=replace(model.catalogue, splits={"test": model.catalogue.split("test")}))
    with pytest.raises(BadInput, match="no training rows"):
        evaluate_items(untrained)


def test_a_recipe_is_asked_before_it_trains_whether_it_can_be_evaluated(tmp_path: Path) -> None:
    told = values(tmp_path)
    check_recommends(load(told))
    with pytest.raises(UnknownName, match="'dev'"):
        check_recommends(load(told), "dev")
    with pytest.raises(BadInput, match=r"Nothing that recommends is taught: id_to_title"):
        check_recommends(load(told, ["learn.tasks={id_to_title: 1}"]))
    with pytest.raises(BadInput, match=r"did not learn the task 'history'; it learnt preference. Ask for preference"):
        check_recommends(load(told, ["learn.tasks={preference: 1}"]), task="history")
    assert check_recommends(load(told)) == "history"
    assert check_recommends(load(told, ["learn.tasks={preference: 1, title_to_id: 1}"])) == "preference"
    with pytest.raises(BadInput, match="holds no items"):
        check_recommends(load({"base": "tiny", "learn": "tiny/shakespeare"}))
