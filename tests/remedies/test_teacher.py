"""Kept answers are those that the teacher would give, within their bound, and they come back from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from holdfast import checkpoint
from holdfast._errors import BadInput
from holdfast.remedies.divergence import likeliest
from holdfast.remedies.teacher import Answers, answered
from tests.models import VOCABULARY, build

IDS = [torch.randint(3, VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 9, 7)]
ROWS = [{"input_ids": ids.tolist(), "labels": ids.tolist()} for ids in IDS]


class Teacher:
    """A model that counts how often it is asked."""

    def __init__(self) -> None:
        self.model, self.asked = build("llama"), 0

    def __call__(self, ids: Tensor) -> Tensor:
        self.asked += 1
        logits: Tensor = self.model(input_ids=ids).logits
        return logits


@pytest.mark.parametrize("on_disk", [False, True])
def test_every_row_is_asked_about_once(tmp_path: Path, on_disk: bool) -> None:
    teacher, answers = Teacher(), Answers(4, 2.0, folder=tmp_path / "kept" if on_disk else None)
    for _ in range(3):
        said = answers.about(IDS, teacher)
        whole = torch.cat([teacher.model(input_ids=ids[None]).logits[0] for ids in IDS])
        expected = likeliest(whole.detach(), 4, 2.0)
        assert torch.equal(said.values, expected.values) and torch.equal(said.indices.long(), expected.indices)
        assert torch.equal(said.rest, expected.rest) and not said.values.requires_grad
    assert teacher.asked == 3 == len(answers)
    assert (len(list((tmp_path / "kept").glob("*"))) if on_disk else 3) == 3
    answers.close()
    assert len(answers) == 0 and not (tmp_path / "kept").exists()


def test_what_does_not_fit_is_asked_about_again() -> None:
    room = (5 + 9) * (8 * 4 + 4) / 2**20
    teacher, answers = Teacher(), Answers(4, limit=room)
    first, second = answers.about(IDS, teacher), answers.about(IDS, teacher)
    assert torch.equal(first.values, second.values)
    assert len(answers) == 2 and teacher.asked == 4
    assert sum(array.nbytes for array in answers._store.values()) <= room * 2**20
    nothing = Answers(4, limit=0.0)
    assert torch.equal(nothing.about(IDS, teacher).values, first.values) and len(nothing) == 0


@pytest.mark.parametrize("on_disk", [False, True])
def test_answers_outlive_the_model_that_gave_them(tmp_path: Path, on_disk: bool) -> None:
    model = build("llama", dropout=0.3).train()
    answers = answered(model, ROWS, 4)
    assert model.training and len(answers) == 3
    checkpoint.write_state(tmp_path, "answers", answers.state())
    back = Answers.restored(checkpoint.read_state(tmp_path, "answers"), folder=tmp_path / "kept" if on_disk else None)
    said = back.about(IDS, lambda ids: pytest.fail("asked about a row that is known"))
    expected = torch.cat([model.eval()(input_ids=ids[None]).logits[0] for ids in IDS]).topk(4)
    assert torch.equal(said.values, expected.values) and back.top == 4
    shorter = Answers.restored(answers.state(), limit=5 * 36 / 2**20)
    assert len(shorter) == 1


def test_what_cannot_be_kept_is_said() -> None:
    with pytest.raises(BadInput, match="top >= 1"):
        Answers(0)
