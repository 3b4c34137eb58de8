"""The rows of a recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast._errors import BadInput
from holdfast.base import Base, load_base
from holdfast.data.formats import Completion
from holdfast.data.quality import repetition
from holdfast.data.rows import Row
from holdfast.recipe import load
from holdfast.recipe.texts import Texts, held_out
from tests.recipe.small import recipe


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def ids(rows: Sequence[Row]) -> set[tuple[int, ...]]:
    return {tuple(row["input_ids"]) for row in rows}


def test_a_tenth_of_the_documents_is_held_out(base: Base, tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"The {i}th of them said {i * 7} words."}) for i in range(200)))
    texts = Texts(recipe(tmp_path, f"learn.data={file}"), base)
    lessons, probe = texts.learn
    told = base.tokenizer.decode([token for row in lessons for token in row["input_ids"]])
    held = [base.tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in probe.rows]
    assert 15 <= len(held) <= 25 and "a tenth of its documents" in probe.source
    assert not [text for text in held if text.strip() in told]


def test_a_text_with_a_test_split_is_measured_on_it(base: Base, tmp_path: Path) -> None:
    lessons, probe = Texts(recipe(tmp_path, "learn.data=tiny/shakespeare"), base).learn
    assert "its own test split" in probe.source and probe.name == "tiny/shakespeare"
    assert not ids(lessons) & ids(probe.rows)


def test_another_source_can_be_measured_on(base: Base, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("A quite different text about the sea.\n\nAnd one more about the sand.")
    _, probe = Texts(recipe(tmp_path, f"learn.evaluation={other}"), base).learn
    assert probe.name == str(other) and "all of it" in probe.source


def test_guarded_texts_are_replayed_from_their_third_part_only(base: Base, tmp_path: Path) -> None:
    texts = Texts(recipe(tmp_path), base)
    (old,) = texts.recipe.keep.suites
    assert list(texts.guarded) == ["self", old]
    for name, guarded in texts.guarded.items():
        assert not ids(guarded.control.rows) & ids(guarded.audit.rows)
        assert not ids(texts.source(name)) & (ids(guarded.control.rows) | ids(guarded.audit.rows))
        assert max(len(guarded.control.rows), len(guarded.audit.rows)) <= 24
    both = texts.source(["self", old])
    longest = max(len(texts.source(name)) for name in ("self", old))
    for i, name in enumerate(("self", old)):
        own = texts.source(name)
        assert both[i::2] == [own[j % len(own)] for j in range(longest)]
    assert [len(texts.outline[old].audit.rows), texts.outline[old].audit.documents] == [
        len(texts.guarded[old].audit.rows),
        texts.guarded[old].audit.documents,
    ]


def test_a_source_of_a_rule_can_be_any_text(base: Base, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(f"A quite different text about the sea, number {i}." for i in range(40)))
    assert len(Texts(recipe(tmp_path), base).source(str(other))) > 10


def test_self_made_text_can_be_had_without_what_is_badly_made(base: Base, tmp_path: Path) -> None:
    texts = Texts(recipe(tmp_path, "keep.suites=[]", "keep.budget=null"), base)
    whole, good = texts.source("self"), texts.source("self/sound")
    assert 0 < len(good) < len(whole) and ids(good) < ids(whole)
    assert max(repetition(row["input_ids"]) for row in good) <= 0.5
    with pytest.raises(BadInput, match="chat template"):
        texts.source("self/chat")


def test_rows_do_not_depend_on_the_rules(base: Base, tmp_path: Path) -> None:
    """Otherwise two runs on the same texts could not be compared."""
    one, other = (Texts(recipe(tmp_path, *override), base) for override in ([], ["rules=[]"]))
    assert [g.audit.digest for g in one.guarded.values()] == [g.audit.digest for g in other.guarded.values()]


def test_a_text_that_is_too_short_says_so(base: Base, tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("Hm.")
    with pytest.raises(BadInput, match=r"Give more text"):
        Texts(recipe(tmp_path, f"learn.data={file}"), base).learn  # noqa: B018
    file.write_text("")
    with pytest.raises(BadInput, match="empty"):
        Texts(load({"base": "tiny", "learn": str(file)}), base).learn  # noqa: B018


def test_no_rule_reads_what_measures_the_run(base: Base, tmp_path: Path) -> None:
    texts = Texts(recipe(tmp_path), base)
    (old,) = texts.recipe.keep.suites
    assert not ids(texts.source(texts.recipe.learn.data)) & ids(texts.learn[1].rows)
    copy = tmp_path / "copy.txt"
    copy.write_text(Path(old).read_text("utf-8"), "utf-8")
    judged = [row["input_ids"] for part in (texts.guarded[old].control, texts.guarded[old].audit) for row in part.rows]
    passages = {tuple(row[i : i + 20]) for row in judged for i in range(len(row) - 19)}
    for found in (texts.source(str(copy)), Texts(recipe(tmp_path, f"learn.data={copy}"), base).learn[0]):
        rows = [row["input_ids"] for row in found]
        assert rows and not passages & {tuple(row[i : i + 20]) for row in rows for i in range(len(row) - 19)}


def test_records_that_are_left_out_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """A record that stands both in the held tenth and among the lessons would make the learning look better."""
    records = [Completion(f"Say {i % 40}.", f" {i % 40}") for i in range(60)]
    rest, held = held_out(records, 0.2, 0)
    lost = 60 - len(rest) - len(held)
    assert lost > 0 and f"{lost} of 60 records are the same" in caplog.text
    assert not {r.prompt for r in rest} & {r.prompt for r in held}  # type: ignore[union-attr]
