"""Rollback: the best comes back bit for bit, files stay few, and no run loops for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast._errors import BadInput
from holdfast.snapshots import read_snapshot
from holdfast.strategies.rollback import Rollback
from tests.models import build
from tests.strategies.hand import by_hand, step, values
from tests.test_every_rule import ROWS, batches, same, started, weights
from tests.test_training import settings as arguments
from tests.test_training import trainer


def scripted(figures: list[float], **given_: Any) -> Rollback:
    """A rollback whose metric is read from a list, one value a step."""
    script = iter(figures)
    return Rollback(lambda run: next(script), **{"every": 1, "patience": 99, **given_})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=12), st.booleans(), st.floats(0.01, 0.5), st.integers(0, 3))
@pytest.mark.slow
def test_weights_are_the_bests_after_each_fall_and_files_stay_few(
    figures: list[float], higher: bool, threshold: float, keep: int
) -> None:
    rule = scripted(figures, higher_is_better=higher, threshold=threshold, keep=keep, lower=1.0)
    run = by_hand([rule], torch.optim.AdamW)
    best: float | None = None
    falls, kept = 0, values(run)
    for number, figure in enumerate(figures):
        step(run, number)
        fallen = best is not None and (best - figure if higher else (figure - best) / best) > threshold
        falls += fallen
        if best is None or (figure > best if higher else figure < best):
            best, kept = figure, values(run)
        assert not fallen or same(kept, values(run))
        assert rule.best_value == best and rule.rollbacks == falls and run.step == number + 1
        assert len(list(rule.best_file(run).parent.iterdir())) <= 1 + keep
    folder = rule.best_file(run).parent
    run.end()
    assert not folder.exists()


def test_what_comes_back_is_bit_exact_with_optimiser_schedule_and_random_state(tmp_path: Path) -> None:
    rule = scripted([1.0, 2.0, 0.9], every=3, lower=1.0, folder=tmp_path)
    run = started("llama", [rule])
    run.scheduler = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.8)
    early, late = batches(3), batches(3, seed=1)
    for batch in early:
        run.advance(batch)
    snapshot, then = run.snapshot(), torch.get_rng_state()
    for batch in late:
        run.advance(batch)
    assert rule.rollbacks == 1 and run.step == 6
    assert same(snapshot["weights"], weights(run)) and torch.equal(torch.get_rng_state(), then)
    assert run.scheduler.last_epoch == 3
    back = run.optimizer.state_dict()
    assert back["param_groups"] == snapshot["optimizer"]["param_groups"]
    for index, kept in snapshot["optimizer"]["state"].items():
        assert all(torch.equal(value, back["state"][index][key]) for key, value in kept.items())
    assert run.journal[-1]["kind"] == "note" and "rolled back to step 3" in run.journal[-1]["text"]


@pytest.mark.parametrize(
    ("figures", "higher", "rolled"),
    [([4.0, 4.3], False, 1), ([4.0, 4.1], False, 0), ([0.9, 0.84], True, 1), ([0.9, 0.86], True, 0)],
)
def test_a_loss_falls_in_proportion_and_a_score_by_the_difference(
    figures: list[float], higher: bool, rolled: int
) -> None:
    rule = scripted(figures, higher_is_better=higher)
    run = by_hand([rule])
    step(run, 0), step(run, 1)
    assert rule.rollbacks == rolled
    run.end()


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_what_is_not_finite_has_fallen_and_is_never_the_best(figure: float) -> None:
    rule = scripted([figure, 1.0, figure])
    run = by_hand([rule])
    for number, best in enumerate([None, 1.0, 1.0]):
        step(run, number)
        assert rule.best_value == best
    assert rule.rollbacks == 1
    run.end()


def test_each_rollback_lowers_the_rate_and_patience_ends_the_run() -> None:
    rule = scripted([1.0, *[2.0] * 9], patience=3, lower=0.5)
    run = by_hand([rule])
    best = None
    for number in range(10):
        assert rule.rate(run, next(iter(run.params.values())), 1.0) == 0.5 ** max(0, number - 1)
        step(run, number)
        best = best or values(run)
        if run.stopped:
            break
    assert number == 3 and rule.rollbacks == 3 and "rolled back 3 times" in str(run.stopped)
    assert best is not None and same(best, values(run))
    run.end()


def test_a_window_is_averaged_and_begins_anew_after_a_rollback() -> None:
    rule = scripted([1.0, 1.0, 1.15, 1.4, 1.0], window=3, threshold=0.1)
    run = by_hand([rule])
    seen = []
    for number in range(5):
        step(run, number)
        seen.append(rule.rollbacks)
    assert seen == [0, 0, 0, 1, 1] and rule.state()["values"] == [1.0]
    run.end()


def test_without_a_metric_it_is_the_mean_training_loss_since_the_last_look() -> None:
    rule = Rollback(every=2, threshold=9.0)
    run = started("llama", [rule])
    losses = [run.advance(batch) for batch in batches(4)]
    assert rule.best_value == pytest.approx(min(sum(losses[:2]) / 2, sum(losses[2:]) / 2), rel=1e-6)
    run.end()


def test_files_have_their_names_and_only_older_looks_of_another_run_go(tmp_path: Path) -> None:
    for name in ("step-900", "step-12.txt", "notes"):
        (tmp_path / name).write_text("mine")
    rule = scripted([1.0, 1.01, 1.02, 1.03], folder=tmp_path, best="best_checkpoint.pkl", keep=2)
    run = by_hand([rule])
    for number in range(4):
        step(run, number)
    run.end()
    names = {f.name for f in tmp_path.iterdir()}
    assert names == {"best_checkpoint.pkl", "step-3", "step-4", "step-12.txt", "notes"}
    assert read_snapshot(tmp_path / "step-4").tree["run"]["step"] == 4


def test_a_resumed_run_knows_its_best_file_and_only_that(tmp_path: Path) -> None:
    rule = scripted([1.0, 1.01, 0.5], folder=tmp_path)
    run = by_hand([rule])
    step(run, 0), step(run, 1)
    state = dict(rule.state())
    resumed = scripted([], folder=tmp_path)
    resumed.restore(run, {}, state)
    assert resumed.best_value == 1.0
    step(run, 2)  # the file now holds a later state than the resumed run comes from
    resumed.restore(run, {}, state)
    assert resumed.best_value is None


def test_inside_a_trainer_steps_and_data_go_on(tmp_path: Path) -> None:
    figures = iter([1.0, 5.0, 0.9, 0.8])
    rule = Rollback(lambda run: next(figures), every=2, folder=tmp_path / "kept")
    host = trainer(build("llama"), arguments(tmp_path / "run", max_steps=8), [rule])
    host.train()
    assert host.state.global_step == 8 == host.run.step and rule.rollbacks == 1
    assert host.run.scheduler.last_epoch == 6  # two steps of the schedule were made twice


@pytest.mark.parametrize("given_", [{"threshold": -1}, {"every": 0}, {"patience": 0}, {"lower": 0}, {"source": []}])
def test_what_cannot_be_is_said(given_: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Rollback(**given_)
    with pytest.raises(BadInput, match="not both"):
        Rollback(lambda run: 1.0, ROWS)
