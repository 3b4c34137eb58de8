"""The suites that come with the package: well-formed, balanced, not to be solved by a trick, and made again alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.data.formats import Completion, parse, read
from holdfast.evaluation.constraints import holds
from holdfast.tiny import TEXTS

ROOT = Path(__file__).parents[1]
SUITES = ROOT / "src" / "holdfast" / "suites"
NAMES = sorted(folder.name for folder in SUITES.iterdir() if folder.is_dir())
KEYS = ["about", "dimension", "language", "data", "metric", "role", "weight"]
WATCHED = {"style", "safety", "instructions"}
DIMENSIONS = WATCHED | {
    "facts", "concepts", "terminology", "reasoning", "reading", "grammar", "context", "complex", "confusion",
    "hallucination", "fluency",
}  # fmt: skip


def settings(name: str) -> dict[str, Any]:
    given: dict[str, Any] = yaml.safe_load((SUITES / name / "suite.yaml").read_text("utf-8"))
    return given


def metric(name: str) -> str:
    """The name of a suite's metric, without its knobs."""
    given = settings(name)["metric"]
    return given if isinstance(given, str) else next(iter(given))


def items(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SUITES / name / "items.jsonl").read_text("utf-8").splitlines()]


OWN = [name for name in NAMES if settings(name)["data"] == "items.jsonl"]
CHOICES = [name for name in OWN if metric(name) == "choice_accuracy"]


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_that_a_suite_has(name: str) -> None:
    given = settings(name)
    assert [key for key in given if key != "chat"] == KEYS
    assert given.get("chat", False) == (metric(name) in ("constraints", "refusal", "style"))
    assert given["dimension"] in DIMENSIONS and given["language"] in ("en", "zh")
    assert name == f"{given['dimension']}-{given['language']}"
    assert given["role"] == ("watched" if given["dimension"] in WATCHED else "guarded")
    assert given["weight"] == 1 and given["data"] in ("items.jsonl", *TEXTS)
    assert given["about"].count(". ") == 1 and "cannot show" in given["about"]
    files = {"suite.yaml", *({"items.jsonl"} if name in OWN else ())}
    assert {file.name for file in (SUITES / name).iterdir()} == files


def test_every_dimension_has_a_suite_and_both_languages_have_some() -> None:
    given = [settings(name) for name in NAMES]
    assert {suite["dimension"] for suite in given} == DIMENSIONS
    assert Counter(suite["language"] for suite in given)["zh"] >= 5


def test_they_are_small_and_say_whose_they_are() -> None:
    files = [file for file in SUITES.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 1_000_000
    assert "CC0 1.0" in (SUITES / "LICENCE").read_text("utf-8")


@pytest.mark.parametrize("name", OWN)
def test_records_are_well_formed(name: str) -> None:
    keys = {
        "choice_accuracy": {"prompt", "answer", "choices"}, "loss": {"text"}, "style": {"prompt"},
        "bits_per_character": {"text"},
        "constraints": {"prompt", "constraints"}, "refusal": {"prompt", "answer"},
    }[metric(name)]  # fmt: skip
    records = items(name)
    assert len(records) >= 40 and all(set(record) == keys for record in records)
    texts = [text for record in records for text in (*record.get("choices", ()), record.get("prompt") or "x")]
    assert all(text.strip(" ") == text and text for text in texts)
    what = Counter((record.get("prompt"), record.get("answer"), record.get("text")) for record in records)
    assert max(what.values()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_reader_takes_them(name: str) -> None:
    assert read(str(SUITES / name / "items.jsonl") if name in OWN else settings(name)["data"])


@pytest.mark.parametrize("name", CHOICES)
def test_answers_are_among_as_many_different_choices_and_in_balanced_places(name: str) -> None:
    records = items(name)
    (many,) = {len(record["choices"]) for record in records}
    assert all(len(set(record["choices"])) == many for record in records)
    places = Counter(record["choices"].index(record["answer"]) for record in records)
    assert all(abs(places[place] / len(records) - 1 / many) <= 0.05 for place in range(many))


def picked(records: list[dict[str, Any]], liked: Callable[[str], float]) -> float:
    """How often the choice that is liked most is right; of equals, each as often."""
    right = 0.0
    for record in records:
        best = max(map(liked, record["choices"]))
        equals = [choice for choice in record["choices"] if liked(choice) == best]
        right += (record["answer"] in equals) / len(equals)
    return right / len(records)


@pytest.mark.parametrize("name", CHOICES)
def test_no_trick_solves_them(name: str) -> None:
    """Neither the longest nor the shortest choice, nor always the same place."""
    records = items(name)
    most = 1 / len(records[0]["choices"]) + 0.12
    assert picked(records, len) <= most and picked(records, lambda choice: -len(choice)) <= most
    for place in range(len(records[0]["choices"])):
        assert sum(record["choices"][place] == record["answer"] for record in records) / len(records) <= most


@pytest.mark.parametrize("name", ["context-en"])
def test_long_notes_ask_early_and_late(name: str) -> None:
    prompts = [record["prompt"] for record in items(name)]
    assert all(150 <= len(prompt.split()) <= 300 for prompt in prompts)
    places = [record["prompt"].index(record["answer"]) / len(record["prompt"]) for record in items(name)]
    assert all(0.28 <= sum(low <= p < low + 1 / 3 for p in places) / len(places) <= 0.39 for low in (0, 1 / 3, 2 / 3))


@pytest.mark.parametrize("name", [name for name in OWN if metric(name) == "constraints"])
def test_constraints_exist_and_have_their_knobs(name: str) -> None:
    for record in items(name):
        assert 1 <= len(record["constraints"]) <= 3
        assert all(holds("x", constraint) in (True, False) for constraint in record["constraints"])


def test_what_to_refuse_is_paired_with_what_sounds_alike() -> None:
    answers = [record["answer"] for record in items("safety-en")]
    assert answers == ["refuse", "comply"] * 20


def test_a_third_of_the_questions_is_not_answered_by_the_text() -> None:
    records = items("hallucination-en")
    assert sum("not say" in record["answer"] for record in records) * 3 == len(records)
    assert all(sum("not say" in choice for choice in record["choices"]) == 1 for record in records)


def test_no_blank_stands_between_a_chinese_question_and_its_answer() -> None:
    for name in (name for name in CHOICES if settings(name)["language"] == "zh"):
        for i, record in enumerate(items(name)):
            task = parse(record, name, i)
            assert isinstance(task, Completion) and not task.completion.startswith(" ")


def test_the_tools_make_the_same_bytes_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "suites" / "make.py", tmp_path], check=True)
    made = sorted(file.parent.name for file in tmp_path.rglob("items.jsonl"))
    assert made == sorted(CHOICES)
    for name in made:
        assert (tmp_path / name / "items.jsonl").read_bytes() == (SUITES / name / "items.jsonl").read_bytes()
