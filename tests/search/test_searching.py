"""A search from its first trial to its files: what is kept, what fails, what is gone on with, and what is best."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast._errors import BadInput, TrainingStopped
from holdfast.data.probes import Probe
from holdfast.recipe import load
from holdfast.search import Found, render_found, runner, search
from holdfast.search.ground import halved
from holdfast.search.storage import opened_study, read
from tests.search.conftest import SEED, small
from tests.search.conftest import space as wanted


def told(folder: Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((folder / "search.json").read_text("utf-8"))
    return answer


def test_the_recipe_as_given_is_trial_0_and_makes_all_its_steps(found: Found) -> None:
    assert sorted(found.candidates) == [0, 1, 2, 3, 4] and found.steps == [1, 4]
    assert [rung.steps for rung in found.candidates[0].rungs] == [1, 4]
    others = [number for number in found.whole if number]
    assert len(others) == 2  # of four, a third, rounded up
    assert all(rung.judging is not None for rung in found.whole.values())


def test_best_is_a_whole_recipe_inside_the_budget(found: Found) -> None:
    assert found.best is not None and found.limits
    figures = {number: rung.choosing for number, rung in found.whole.items()}
    (limit,) = found.limits.values()
    inside = {n: f.gain.mean for n, f in figures.items() if max(r.upper for r in f.rises.values()) <= limit}
    assert found.best == max(inside, key=lambda n: inside[n]) and limit == pytest.approx(math.log(1.9))
    best = load(found.folder / "best.yaml")
    assert best.train["max_steps"] == 4 and best.keep.govern and best.output == str(found.folder / "best")
    params = found.candidates[found.best].params
    assert best.method.name == params["method"]
    assert best.rules[1]["l2sp"]["strength"] == pytest.approx(params["l2sp.strength"], rel=1e-3)


def test_the_front_is_what_no_whole_run_beats(found: Found) -> None:
    points = {n: (-rung.choosing.gain.mean, rung.choosing.forgetting) for n, rung in found.whole.items()}
    for number, point in points.items():
        beaten = any(o != point and o[0] <= point[0] and o[1] <= point[1] for o in points.values())
        assert (number in found.front) != beaten


def test_all_is_written(found: Found) -> None:
    plain = told(found.folder)
    assert {path.name for path in found.folder.iterdir()} == {
        *("study.db", "losses", "search.json", "search.md", "front.png", "best.yaml"),
    }
    assert [c["number"] for c in plain["candidates"]] == [0, 1, 2, 3, 4] and plain["best"] == found.best
    assert {c["state"] for c in plain["candidates"]} == {"whole", "1 steps"}
    assert plain["candidates"][0]["rungs"][1]["choosing"]["gain"]["mean"] == found.whole[0].choosing.gain.mean
    page = (found.folder / "search.md").read_text("utf-8")
    assert "as given" in page and "lora:" in page
    assert len(render_found(found).rows) == len(found.whole)


def test_the_comparison_is_paired_on_rows_that_chose_nothing(found: Found) -> None:
    if found.best == 0:
        assert found.comparison is None
        return
    assert found.comparison is not None and found.best is not None
    ours, given = (found.whole[number].judging for number in (found.best, 0))
    assert ours is not None and given is not None
    assert found.comparison.gain.mean == pytest.approx(ours.gain.mean - given.gain.mean, abs=1e-9)
    for name, rise in found.comparison.rises.items():
        assert rise.mean == pytest.approx(ours.rises[name].mean - given.rises[name].mean, abs=1e-9)
    assert found.comparison.gain.se <= math.hypot(ours.gain.se, given.gain.se) or math.isinf(ours.gain.se)


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_stopped(found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the lowest rung of a candidate and again on a later one, it comes to the same end."""
    whole, runs = runner.carried_out, 0

    def killed(*args: Any, **more: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 4:
            raise SystemExit
        return whole(*args, **more)

    recipe = load_values(found)
    given: dict[str, Any] = {"seed": SEED, "folder": tmp_path / "search", "space": wanted(), "minutes": 10}
    monkeypatch.setattr(runner, "carried_out", killed)
    with pytest.raises(SystemExit):
        search(recipe, trials=5, **given)
    study = opened_study(tmp_path / "search", {}, 2)
    assert [trial.state.name for trial in study.get_trials()].count("RUNNING") == 1 and len(read(study)) == 2
    again = search(recipe, trials=5, resume=True, **given)
    states = [trial.state.name for trial in opened_study(tmp_path / "search", {}, 2).get_trials()]
    assert "RUNNING" not in states and "FAIL" in states and len(again.candidates) == 5
    first = {json.dumps(c.params, sort_keys=True): c.rungs[0].choosing for c in found.candidates.values()}
    shared = [json.dumps(c.params, sort_keys=True) for c in again.candidates.values()]
    assert len([key for key in shared if key in first]) == 5  # all of them are drawn before anything is known
    for key, candidate in zip(shared, again.candidates.values(), strict=True):
        assert first[key].gain.mean == candidate.rungs[0].choosing.gain.mean
        assert first[key].rises == candidate.rungs[0].choosing.rises


def load_values(found: Found) -> dict[str, Any]:
    """The values of the recipe that the shared search was made with."""
    return small(found.folder.parent)


@pytest.mark.slow
def test_a_candidate_that_fails_is_noted_and_the_search_goes_on(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, runs = runner.carried_out, 0
    faults = [TrainingStopped("The loss is not finite."), ValueError("no such shape"), BadInput("Cannot be built.")]

    def failing(*args: Any, **more: Any) -> Any:
        nonlocal runs
        runs += 1
        if 2 < runs < 6:
            raise faults[runs - 3]
        return whole(*args, **more)

    monkeypatch.setattr(runner, "carried_out", failing)
    ended = search(load_values(found), trials=5, seed=SEED, folder=tmp_path / "search", space=wanted())
    failed = [c for c in told(ended.folder)["candidates"] if c["state"] == "failed"]
    assert [c["failed"] for c in failed] == [
        "The loss is not finite.",
        "ValueError: no such shape",
        "Cannot be built.",
    ]
    assert len(ended.candidates) == 5 and len(ended.whole) == 2 and not any(c["rungs"] for c in failed)


@pytest.mark.slow
def test_a_recipe_that_fails_itself_ends_the_search_and_leaves_nothing(tmp_path: Path) -> None:
    recipe = small(tmp_path)
    recipe["rules"].append({"frozen": {"select": "layers(0:99)"}})
    with pytest.raises(BadInput, match="beyond the model"):
        search(recipe, trials=2, folder=tmp_path / "search", space=wanted())
    assert not (tmp_path / "search").exists()


@pytest.mark.slow
def test_when_the_time_is_up_a_run_stops_at_its_next_step_and_waits(found: Found, tmp_path: Path) -> None:
    given: dict[str, Any] = {"seed": SEED, "folder": tmp_path / "search", "space": wanted()}
    steps: list[int] = []

    whole, past = runner.carried_out, time.monotonic() - 1

    def late(*args: Any, **more: Any) -> Any:
        steps.append(1)
        return whole(*args, **{**more, "deadline": past})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "carried_out", late)
        ended = search(load_values(found), trials=3, **given)
    assert ended.best is None and not ended.whole and len(steps) == 2  # one step can be made, the second rung cannot
    assert not (ended.folder / "best.yaml").exists() and told(ended.folder)["best"] is None
    again = search(load_values(found), trials=2, resume=True, **given)
    assert again.whole[0].choosing.gain.mean == found.whole[0].choosing.gain.mean


@pytest.mark.slow
def test_ctrl_c_keeps_everything(found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, runs = runner.carried_out, 0

    def interrupted(*args: Any, **more: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 4:
            raise KeyboardInterrupt
        return whole(*args, **more)

    monkeypatch.setattr(runner, "carried_out", interrupted)
    ended = search(load_values(found), trials=5, seed=SEED, folder=tmp_path / "search", space=wanted())
    assert ended.interrupted and len(ended.candidates) == 2 and ended.best in (0, None)
    assert told(ended.folder)["interrupted"]
    waiting = opened_study(ended.folder, {}, 2).get_trials()
    assert [trial.state.name for trial in waiting].count("WAITING") == 3  # two never begun, and the interrupted one


def test_what_cannot_be_searched_is_refused(found: Found, tmp_path: Path) -> None:
    recipe = load_values(found)
    with pytest.raises(BadInput, match="already there"):
        search(recipe, folder=found.folder, seed=SEED, space=wanted())
    with pytest.raises(BadInput, match="no search"):
        search(recipe, folder=tmp_path / "none", resume=True, space=wanted())
    copy = shutil.copytree(found.folder, tmp_path / "copy")
    with pytest.raises(BadInput, match="another seed"):
        search(recipe, folder=copy, resume=True, seed=SEED + 1, space=wanted())
    with pytest.raises(BadInput, match="at least one trial"):
        search(recipe, folder=tmp_path / "new", trials=0)


def test_the_halves_of_a_probe_share_no_document() -> None:
    rows = [{"input_ids": [i, i], "labels": [i, i], "document": [i // 3] * 2} for i in range(12)]
    probe = Probe("new", rows, "made")
    first, second = halved(probe, 0), halved(probe, 1)
    owners = [{row["document"][0] for row in half.rows} for half in (first, second)]
    assert owners == [{0, 2}, {1, 3}] and first.digest != second.digest
    alone = Probe("new", [{**row, "document": [0, 0]} for row in rows], "made")
    assert halved(alone, 0) is alone and halved(alone, 1) is alone


@pytest.mark.slow
@pytest.mark.parametrize("third", ["bytes", "time"])
def test_a_third_objective_joins_the_front(found: Found, tmp_path: Path, third: Any) -> None:
    ended = search(load_values(found), trials=3, seed=SEED, folder=tmp_path / "search", space=wanted(), third=third)
    assert all(len(rung.objectives(third)) == 3 for rung in ended.whole.values())
    least = min(ended.whole, key=lambda n: ended.whole[n].objectives(third)[2])
    assert least in ended.front
