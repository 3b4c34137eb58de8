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
from holdfast.recipe.checking import settings_of
from holdfast.recipe.texts import Texts
from holdfast.rule import rules
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


def test_a_plan_counts_what_a_schedule_replays(tmp_path: Path) -> None:
    share = "rules=[replay: {source: tiny/stories, share: {periodic: {share: 0.5, every: 4, burst: 1}}}]"
    planned = plan(recipe(tmp_path, share, "train.max_steps=40"))
    assert planned.replayed == planned.learnt / 4 and planned.sampled == 48 * 32
    twice = plan(recipe(tmp_path, "rules=[replay: {source: self}, replay: {source: self/sound, share: 0.5}]"))
    assert twice.replayed == round(twice.learnt * (4 / 3 * 2 - 1)) and twice.sampled == 3 * 48 * 32


def test_a_plan_says_what_the_recipe_asks_for(tmp_path: Path) -> None:
    changes = ("keep.probe=none", "method={name: lora, rank: 4}", "learn.length=48", "keep.budget=0.5")
    asked = recipe(tmp_path, *changes, "rules=[frozen: {select: adapter & layers(0:2)}, ewc: {source: self}]")
    out = io.StringIO()
    planned = plan(asked)
    render_run_plan(planned, Console(file=out, width=300))
    told = " ".join(out.getvalue().replace("│", " ").split())
    strength = settings_of(rules["ewc"])["strength"]
    (old,) = asked.keep.suites
    for said in (
        "in rows of 48 tokens",
        f"kept {old}, budget 50 %",
        "method lora: rank 4",
        "rule frozen: select adapter & layers(0:2)",
        f"ewc: strength {strength}, source self",
        f"output {tmp_path / 'run'}",
        "nothing is learnt from them",
        f"{planned.freeze.count - planned.freeze.frozen_count:,} train (",
    ):
        assert said in told, said


def test_a_plan_refuses_a_budget_that_cannot_be_resolved(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be told from chance"):
        plan(recipe(tmp_path, "keep.budget=0.0001"))
    assert plan(recipe(tmp_path, "keep.budget=0.0001", "keep.govern=false")).steps == 4
