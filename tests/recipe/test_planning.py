"""The plan of a recipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from holdfast._errors import BadInput
from holdfast.base import load_base
from holdfast.data import sampling
from holdfast.recipe import plan, render_run_plan, run
from holdfast.recipe.texts import Texts
from tests.recipe.small import recipe


def test_a_plan_says_what_the_run_then_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.recipe.running.write_report", lambda runs, target, title: target)
    asked = recipe(tmp_path, "train.max_steps=-1", "train.num_train_epochs=0.2", "train.gradient_accumulation_steps=2")
    planned = plan(asked)
    texts = Texts(asked, load_base("tiny"))
    assert planned.rows == pytest.approx(len(texts.learn[0]), abs=2)
    assert planned.batch == 8 and planned.learnt == planned.steps * 8 * 32 == planned.replayed
    assert planned.sampled == 2 * 48 * 32
    result = run(asked)
    assert result.certificate is not None and result.certificate["steps"] == planned.steps
    audits = [guarded.audit.rows for guarded in texts.guarded.values()]
    measured = sum(map(len, [*audits, texts.learn[1].rows]))
    assert planned.looks["certificate, before and after"] == pytest.approx(2 * measured, abs=6)


def test_a_plan_loads_no_weights_samples_nothing_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "sample", lambda *a, **k: pytest.fail("sampled"))
    planned = plan(recipe(tmp_path, "method.name=lora", "rules=[frozen: {select: adapter & layers(0:2)}]"))
    assert all(param.path for param in planned.freeze.params)
    assert 0 < len(planned.freeze.trained) < len(planned.freeze.params)
    assert not (tmp_path / "run").exists()
    out = io.StringIO()
    render_run_plan(planned, Console(file=out, width=100))
    assert "rows to learn from" in out.getvalue() and "adapter" in out.getvalue()


def test_a_plan_refuses_a_budget_that_cannot_be_resolved(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be told from chance"):
        plan(recipe(tmp_path, "keep.budget=0.0001"))
    assert plan(recipe(tmp_path, "keep.budget=0.0001", "keep.govern=false")).steps == 4
