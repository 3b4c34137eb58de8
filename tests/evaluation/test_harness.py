"""Tasks of lm-evaluation-harness as suites: its figures, and nothing of it left behind."""

from __future__ import annotations

import json
import random
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast._errors import BadInput, MissingExtra
from holdfast.base import Base, load_base
from holdfast.data.formats import Completion
from holdfast.evaluation.metrics import metrics
from holdfast.evaluation.suites import Suite, load_suite

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: items.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


def records() -> list[Completion]:
    return [record for record in load_suite("facts-en").records[:10] if isinstance(record, Completion)]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'holdfast[evaluate]'")

    def refused(*given: object) -> None:
        raise OSError("a test of a local task went to the network")

    monkeypatch.setattr(socket.socket, "connect", refused)


def own(place: Path, **settings: Any) -> Suite:
    items = [
        {"q": r.prompt, "choices": [c.strip() for c in r.choices], "gold": r.choices.index(r.completion)}
        for r in records()
    ]
    (place / "items.jsonl").write_text("\n".join(map(json.dumps, items)), "utf-8")
    (place / "task.yaml").write_text(TASK.format(name="own_facts"), "utf-8")
    (place / "suite.yaml").write_text(json.dumps({"kind": "lm_eval", "task": "task.yaml", **settings}), "utf-8")
    return load_suite(place)


@pytest.mark.parametrize(
    ("metric", "normalised"), [("acc", False), pytest.param("acc_norm", True, marks=pytest.mark.slow)]
)
def test_its_accuracies_are_ours_item_by_item(base: Base, tmp_path: Path, metric: str, normalised: bool) -> None:
    """`acc_norm` divides by characters and leaves out the blank, so only texts of one kind compare: these do."""
    base.model.train()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    python, numpy, torched = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore
    found = own(tmp_path, metric=metric).score(base)
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == numpy  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), torched)
    assert base.model.training
    base.model.eval()
    expected = metrics["choice_accuracy"](base.model, base.tokenizer, records(), normalised=normalised)
    assert found.each().tolist() == expected.each().tolist()
    assert 0 < found.figure < 1
    assert (found.unit, found.higher) == ("share", True)


def test_nothing_stays_behind_when_it_raises(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval

    def fails(**given: Any) -> None:
        random.random(), np.random.rand(), torch.rand(1)
        base.model.train()
        raise RuntimeError("out of memory")

    suite = own(tmp_path)
    monkeypatch.setattr(lm_eval, "simple_evaluate", fails)
    base.model.eval()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    with pytest.raises(RuntimeError, match="out of memory"):
        suite.score(base)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    assert before == after
    assert not base.model.training


@pytest.mark.slow
def test_a_bounded_task_shows_its_items_and_names_its_metrics(base: Base, tmp_path: Path) -> None:
    suite = own(tmp_path, items=4)
    found = suite.score(base)
    assert len(found) == 4
    assert suite.shown(0)[0] == records()[0].prompt
    assert all(answer.startswith("choice ") for answer in found.answers)
    with pytest.raises(BadInput, match=r"has no metric 'acurracy' per item; it has .*acc"):
        own(tmp_path, metric="acurracy", items=1).score(base)


def test_knobs_and_files_that_are_no_task_are_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a name, not"):
        own(tmp_path, metric={"acc": {"normalised": True}}).score(base)
    with pytest.raises(BadInput, match="cannot be read"):
        own(tmp_path, task="nowhere.yaml").score(base)
    (tmp_path / "odd.yaml").write_text("- 1", "utf-8")
    with pytest.raises(BadInput, match="no key `task`"):
        own(tmp_path, task="odd.yaml").score(base)


def test_without_the_package_it_is_said_what_to_install(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtra, match=r"holdfast\[evaluate\]"):
        own(tmp_path).score(base)
