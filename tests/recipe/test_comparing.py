"""A base and what was made of it on the same suites: what is judged, written and shown."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer

from holdfast._errors import BadInput
from holdfast.base import load_base
from holdfast.data.formats import Completion, Text
from holdfast.evaluation.comparison import Baseline, Comparison
from holdfast.evaluation.drift import behaviour
from holdfast.evaluation.suites import load_suite, shipped
from holdfast.recipe.comparing import (
    _check_drift,
    comparisons,
    model_folder,
    render_comparison,
    render_comparisons,
    write_evaluation,
)
from holdfast.vocabulary import extend

KEYS = {"base", "model", "date", "suites", "unguarded", "drift", "scores"}
SUITE_KEYS = {
    "suite", "about", "dimension", "language", "role", "metric", "unit", "higher", "weight", "margin", "noise",
    "before", "after", "worse", "p", "p_holm", "verdict", "needs", "chance", "lost", "gained", "detectable", "worst",
}  # fmt: skip


def changed(place: Path, amount: float) -> Path:
    """The embedded model with weights moved by a share of their spread."""
    base = load_base("tiny")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.add_(amount * parameter.std() * torch.randn_like(parameter) if parameter.dim() > 1 else 0.0)
    base.model.save_pretrained(place)
    base.tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    place = tmp_path_factory.mktemp("prompts") / "open.jsonl"
    place.write_text("\n".join(json.dumps({"prompt": f"Once upon a {w}"}) for w in ("time", "day", "bear")), "utf-8")
    style = {"name": "open", "data": str(place), "metric": {"style": {"max_new_tokens": 8}}, "dimension": "style"}
    return [
        {
            "name": "stories",
            "data": "tiny/stories",
            "items": 20,
            "metric": {"loss": {"length": 128}},
            "dimension": "fluency",
        },
        style,
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, suites: list[dict[str, Any]]) -> list[Comparison]:
    place = tmp_path_factory.mktemp("models")
    facts = {"name": "facts", "items": 20, "metric": "choice_accuracy"}
    facts["data"] = str(shipped()["facts-en"].joinpath("items.jsonl"))
    moved = [changed(place / "much" / "final", 0.2), changed(place / "same", 0.0)]
    return list(comparisons("tiny", [moved[0].parent, moved[1]], suites, learnt=[facts]))


def test_a_model_that_lost_text_forgot_and_an_equal_one_kept_it(found: list[Comparison]) -> None:
    assert found[0].verdicts["stories"] == "forgot"
    assert found[1].verdicts["stories"] == "kept"
    assert found[1].changes["stories"].worse.mean == 0.0
    assert [one.verdicts["open"] for one in found] == [None, None]


def test_what_the_base_does_not_know_is_at_chance_and_no_verdict(found: list[Comparison]) -> None:
    """The embedded model knows no facts: nothing of them can be forgotten."""
    assert found[1].verdicts["facts"] is None
    assert found[1].suites[-1].settings.role == "learnt"


def test_drift_is_there_where_the_model_moved_and_not_where_it_did_not(found: list[Comparison]) -> None:
    assert set(found[0].output) == {"fixed prompts", "new prompts"}
    assert all(drift.mean > 0.05 for drift in found[0].output.values())
    assert all(drift.mean == 0.0 for drift in found[1].output.values())
    assert set(found[0].style) == {"length", "vocabulary", "word pairs", "marks", "embedding"}


def test_what_is_written_holds_all_that_reports_read(found: list[Comparison], tmp_path: Path) -> None:
    file = write_evaluation(found[0], tmp_path / "run")
    told = json.loads(file.read_text("utf-8"))
    assert file.name == "evaluation.json"
    assert set(told) == KEYS
    assert all(set(suite) == SUITE_KEYS for suite in told["suites"])
    stories = told["suites"][0]
    assert stories["worse"]["mean"] == pytest.approx(stories["after"]["mean"] - stories["before"]["mean"])
    assert stories["metric"] == "loss"
    assert len(stories["worst"]) == 5
    assert "fluency" not in told["unguarded"]
    assert told["scores"]["task_forgetting_rates"]["stories"] == pytest.approx(
        1 - math.exp(-stories["after"]["mean"]) / math.exp(-stories["before"]["mean"])
    )


def test_tables_show_models_and_suites(found: list[Comparison]) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=160)
    for one in found:
        console.print(render_comparison(one))
    console.print(render_comparisons(found))
    for said in ("stories", "forgot", "facts", "at chance", "against tiny", "No suite guards"):
        assert said in shown.getvalue()


def test_a_run_stands_for_the_model_that_it_left(tmp_path: Path) -> None:
    assert model_folder(tmp_path) == tmp_path
    (tmp_path / "final").mkdir()
    assert model_folder(tmp_path) == tmp_path / "final"
    assert model_folder("tiny") == "tiny"


TEXT = {"name": "text", "data": "tiny/stories", "items": 3}


def swapped(place: Path, read: bool) -> Path:
    """The embedded model with two tokens of its vocabulary in each other's place, that the texts have or have not."""
    base, place = load_base("tiny"), changed(place, 0.0)
    texts = [record.text for record in load_suite(TEXT).records if isinstance(record, Text)]
    used = {token for text in texts for token in base.tokenizer.tokenize(text)}
    known = json.loads((place / "tokenizer.json").read_text("utf-8"))
    vocabulary = known["model"]["vocab"]
    first, second = [token for token in vocabulary if len(token) == 1 and (token in used) == read][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    Tokenizer.from_str(json.dumps(known)).save(str(place / "tokenizer.json"))
    return place


def test_other_tokens_are_refused_only_where_tokens_are_counted(tmp_path: Path) -> None:
    place = swapped(tmp_path / "other", read=True)
    with pytest.raises(BadInput, match=r"different tokenizers, and read '.+' as other tokens, but text counts nats"):
        list(comparisons("tiny", [place], [TEXT], noise=False, drift=False))
    (found,) = comparisons("tiny", [place], [{**TEXT, "metric": "bits_per_character"}], noise=False, drift=False)
    assert found.before["text"].unit == "bits per character"


def test_tokens_that_no_text_has_may_differ(tmp_path: Path) -> None:
    place = swapped(tmp_path / "other", read=False)
    (found,) = comparisons("tiny", [place], [TEXT], noise=False, drift=False)
    assert found.changes["text"].worse.mean == 0.0


def test_drift_is_measured_of_a_model_with_new_tokens_and_refused_where_prompts_are_read_otherwise(
    tmp_path: Path,
) -> None:
    base, prompt = load_base("tiny"), " ".join(map(chr, range(33, 127)))
    extend(base.model, base.tokenizer, ["<a_1>", "<b_1>"])
    known = behaviour(load_base("tiny"), [Completion(prompt, "")], longest=3)
    told = Baseline("tiny", {}, {}, known)
    _check_drift(told, base, "both")
    with pytest.raises(BadInput, match=r"as other tokens: drift cannot be measured"):
        _check_drift(told, load_base(str(swapped(tmp_path / "other", read=True))), "both")


def test_without_a_suite_it_is_said_what_to_name() -> None:
    with pytest.raises(BadInput, match="--suite all"):
        list(comparisons("tiny", [], []))
