"""Rows as one base reads them."""

from __future__ import annotations

import pytest
import torch

from holdfast.base import Base, load_base
from holdfast.data.formats import Completion, Text, read
from holdfast.data.rows import IGNORED, Rows, learnt
from holdfast.evaluation.loss import SequenceLosses
from holdfast.recipe.reading import Reader


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


@pytest.fixture(scope="module")
def stories() -> list[Text]:
    return [record for record in read("tiny/stories") if isinstance(record, Text)]


def test_rows_begin_as_the_base_finds_least_surprising(base: Base, stories: list[Text]) -> None:
    reader = Reader(base, 32)
    bos = base.tokenizer.bos_token_id
    rows = {opening: reader.lessons(stories, opening)[1:60] for opening in ("auto", "bos", "none")}
    assert rows["auto"] == rows["none"]
    assert all(row["input_ids"][0] == bos for row in rows["bos"])
    assert all(row["labels"][0] != bos and len(row["input_ids"]) == 32 for row in rows["none"])
    assert all(len(row["input_ids"]) == 32 for row in rows["bos"])


def test_a_base_that_wants_its_bos_gets_it(base: Base, stories: list[Text], monkeypatch: pytest.MonkeyPatch) -> None:
    bos = base.tokenizer.bos_token_id

    def fond(model: object, rows: Rows) -> SequenceLosses:
        begun = torch.tensor([float(row["input_ids"][0] != bos) for row in rows])
        return SequenceLosses(begun, torch.ones(len(rows)))

    monkeypatch.setattr("holdfast.recipe.reading.sequence_losses", fond)
    assert Reader(base, 32).lessons(stories)[1]["input_ids"][0] == bos


def test_tasks_keep_their_bos(base: Base) -> None:
    tasks = [Completion(f"{i} and {i} are", f" {2 * i}") for i in range(6)]
    rows = Reader(base, 32).lessons(tasks)
    assert all(row["input_ids"][0] == base.tokenizer.bos_token_id for row in rows)
    assert all(row["labels"][0] == IGNORED and learnt(row) for row in rows)


def test_parts_of_a_text_share_no_row(base: Base) -> None:
    parts = Reader(base, 32).parts("tiny/stories", {"audit": 0.5, "control": 0.5})
    audit, control = ({tuple(row["input_ids"]) for row in parts[name].rows} for name in ("audit", "control"))
    assert len(audit) > 100 and len(control) > 100 and not audit & control


def test_what_the_base_makes_up_is_openings_and_middles_in_turn_and_nowhere_twice(base: Base) -> None:
    reader = Reader(base, 16, seed=4)
    made = reader.made_up(64)
    bos = base.tokenizer.bos_token_id
    for probe in made.values():
        assert 12 <= len(probe.rows) <= 32 and all(len(row["input_ids"]) == 16 for row in probe.rows)
        begun = [row["input_ids"][0] == bos for row in probe.rows]
        assert begun == [i % 2 == 0 for i in range(len(begun))]
    audit, control = ({tuple(row["input_ids"]) for row in made[name].rows} for name in ("audit", "control"))
    assert not audit & control
    more = reader.more_made_up(64, [*made["audit"].rows, *made["control"].rows])
    assert len(more) > 40 and not {tuple(row["input_ids"]) for row in more} & (audit | control)


def test_the_same_seed_makes_the_same_up_and_another_seed_other_text(base: Base) -> None:
    one, again, other = (Reader(base, 16, seed=seed).made_up(16)["audit"].digest for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.slow
def test_a_base_makes_up_no_more_than_it_has_positions_for(base: Base) -> None:
    room = base.model.config.max_position_embeddings
    rows = Reader(base, room).made_up(4)["audit"].rows
    assert rows and all(len(row["input_ids"]) == room for row in rows)
