"""Scores along a sequence of tasks: accuracy or probability, what was lost counted from the right place, intervals."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast import load_base
from holdfast.data.formats import Completion
from holdfast.evaluation.loss import sequence_losses
from holdfast.llm.continual_settings import METRICS
from holdfast.llm.reading import records_of, rows_of
from holdfast.llm.retention import Exam, Retention, _lost
from tests.llm.training import NEW, OLD


def exam(dataset: list[dict[str, str]]) -> Exam:
    return Exam(rows_of(dataset, load_base("tiny").tokenizer, 64), records_of(dataset))


@pytest.fixture
def found() -> Retention:
    """Three looks at two texts, with a model that is spoilt more and more; `new` is learnt after the first step."""
    base = load_base("tiny")
    retention = Retention(base.tokenizer)
    retention.exams = {"old": exam(OLD), "new": exam(NEW)}
    retention.exams["new"].learnt = 1
    generator = torch.Generator().manual_seed(0)
    for stage in range(3):
        retention.look(base.model, stage)
        with torch.no_grad():
            for p in base.model.parameters():
                p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return retention


def test_a_text_is_scored_by_the_probability_of_its_tokens(found: Retention) -> None:
    base = load_base("tiny")
    losses = [sequence_losses(base.model, found.exams["old"].rows, pad_id=found.pad_id).mean()]
    told = found.matrices()["loss"]
    assert told["cells"][0][0]["mean"] == pytest.approx(losses[0]) and told["learnt"] == [3, 1]
    now = found.results("old", METRICS)
    assert now["task_performance"] == pytest.approx(math.exp(-told["cells"][2][0]["mean"]))
    assert now["measure"] == "probability" and now["rows"] == 16


def test_what_was_lost_counts_from_where_it_was_learnt_or_first_seen(found: Retention) -> None:
    cells = found.matrices()["loss"]["cells"]
    for j, name, first in ((0, "old", 0), (1, "new", 1)):
        expected = 1 - math.exp(cells[first][j]["mean"] - cells[2][j]["mean"])
        told = found.results(name, METRICS)
        assert expected > 0 and told["forgetting_rate"] == pytest.approx(expected)
        assert told["knowledge_retention"] == pytest.approx(1 - expected)
        signed = told["signed_forgetting_rate"]
        assert signed["low"] < signed["mean"] == pytest.approx(expected) and signed["mean"] < signed["high"]
    both = found.lost(["old", "new"])
    assert both["mean"] == pytest.approx(sum(found.lost([n])["mean"] for n in ("old", "new")) / 2)


def test_what_got_better_is_clipped_but_for_the_signed_rate(found: Retention) -> None:
    found.look(load_base("tiny").model, 3)
    told = found.results("new", METRICS)
    assert told["forgetting_rate"] == 0.0 and told["knowledge_retention"] == 1.0
    assert told["signed_forgetting_rate"]["mean"] < 0


def test_only_the_metrics_asked_for_are_told(found: Retention) -> None:
    always = {"measure", "loss", "rows"}
    assert set(found.results("old", [])) == always
    assert set(found.results("old", ["knowledge_retention"])) == {*always, "knowledge_retention"}
    assert set(found.results("old", ["task_performance"])) == {*always, "task_performance"}
    assert set(found.results("old", ["forgetting_rate"])) == {*always, "forgetting_rate", "signed_forgetting_rate"}


def test_records_with_choices_are_scored_by_accuracy() -> None:
    base = load_base("tiny")
    asked = [{"prompt": f"The {a} is", "answer": "big", "choices": ["big", "small"]} for a in ("dog", "sun", "sea")]
    retention = Retention(base.tokenizer)
    retention.exams = {"size": exam(asked), "text": exam(OLD)}  # type: ignore[arg-type]
    assert retention.exams["size"].by_choice and isinstance(retention.exams["size"].records[0], Completion)
    retention.look(base.model, 0)
    told = retention.matrices()
    assert told["accuracy"]["tasks"] == ["size"] and told["loss"]["tasks"] == ["size", "text"]
    result = retention.results("size", METRICS)
    assert result["measure"] == "accuracy" and result["task_performance"] == told["accuracy"]["cells"][0][0]["mean"]
    assert result["task_performance"] in (0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)


def test_nothing_is_lost_where_there_was_nothing() -> None:
    assert float(_lost(torch.tensor(0.0).numpy(), torch.tensor(0.5).numpy())) == 0.0
