"""What a folder shows at each moment of its run, and how long that takes to be the end."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from holdfast._errors import BadInput
from holdfast.evaluation.report import RunRecord
from holdfast.evaluation.report.content import Bar, Listing, Progress, Section
from holdfast.watching import view, watch
from holdfast.watching.figures import pace
from holdfast.watching.terminal import rendered
from tests.evaluation.report.runs import SHAPES, write_run

RECIPE = "base: tiny\ntrain: {max_steps: 400}\n"


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A run that is on its way."""
    folder = write_run(tmp_path / "governed", SHAPES["governed"])
    (folder / "certificate.json").rename(tmp_path / "certificate")
    (folder / "recipe.yaml").write_text(RECIPE)
    timed = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    timed = [{**line, "seconds": line["step"] / 4} if line["kind"] == "train" else line for line in timed]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timed))
    return folder


def _end(folder: Path) -> None:
    (folder.parent / "certificate").rename(folder / "certificate.json")


def _blocks(sections: list[Section], kind: type) -> list[object]:
    return [block for section in sections for block in section.blocks if isinstance(block, kind)]


def _printed(folder: Path, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(rendered(view(folder)))
    return console.export_text().replace("\xa0", " ")


def test_a_folder_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    seen = view(tmp_path / "later")
    assert seen.state == "waiting" and "waiting for a run to begin" in seen.said
    (tmp_path / "later").mkdir()
    assert view(tmp_path / "later").state == "waiting"


def test_what_is_no_run_is_refused_and_the_runs_in_it_are_named(running: Path) -> None:
    with pytest.raises(BadInput, match=r"is no run.*watch one of governed"):
        view(running.parent)
    with pytest.raises(BadInput, match="is no run"):
        view(running / "log.jsonl")


def test_a_run_on_its_way_shows_all_of_it(running: Path) -> None:
    seen = view(running)
    assert (seen.state, seen.said) == ("running", "governed: step 300 of 400, 4 steps a second, 25.0\xa0s left")
    told = _printed(running)
    for said in ("step 300 of 400", "training loss", "gain on tiny/shakespeare", "Guarded texts", "Governor"):
        assert said in told
    for said in ("self: +1.21 % of 2.00 %", "strength of distill", "▼ loosened", "61 % of the aim is used"):
        assert said in told
    (progress,) = _blocks([*seen.sections], Progress)
    assert isinstance(progress, Progress) and (progress.value, progress.of) == (300, 400)
    assert max(map(len, _printed(running, width=80).splitlines())) <= 80


def test_bars_stand_against_their_budgets(running: Path) -> None:
    bars = [bar for bar in _blocks([*view(running).sections], Bar) if isinstance(bar, Bar)]
    assert [bar.name for bar in bars] == ["self", "tiny/stories"] and not any(bar.over for bar in bars)
    assert all(bar.at(bar.limit) == pytest.approx(0.5) and bar.at(bar.low) <= bar.at(bar.value) for bar in bars)
    free = Bar("free", 3.0, float("nan"), float("nan"), float("nan"), "")
    assert not free.over and free.at(3.0) == 1.0 and free.at(free.limit) == 0.0


def test_alarms_and_forecasts_are_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "remedies", SHAPES["remedies"])
    told = _printed(folder)
    assert "Alarms" in told and "95 % sure" not in told and "99 % sure" in told
    assert "tiny/stories passes its budget of 2.00 % at step 333" in " ".join(told.split())


def test_the_end_is_the_certificate(running: Path) -> None:
    _end(running)
    seen = view(running)
    assert seen.state == "ended" and seen.said.startswith("governed holds its certificate.")
    assert " left" not in _printed(running)


def test_a_run_that_writes_nothing_for_long_says_so(running: Path) -> None:
    for file in running.iterdir():
        os.utime(file, (0, 0))
    assert "Nothing was written for" in _printed(running)


def test_how_far_a_run_by_epochs_is() -> None:
    line = {"kind": "train", "step": 50, "epoch": 0.5}
    folder = read_run_of([line])
    assert pace(folder, {"train": {"num_train_epochs": 2}}).of == 200
    assert pace(folder, {}).of == 300 and pace(read_run_of([]), {}).said == "preparing"


def read_run_of(lines: list[dict[str, object]]) -> RunRecord:
    return RunRecord("run", Path("run"), log=tuple(lines))


def test_watching_ends_by_itself(running: Path) -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            _end(running)

    before = {path: path.read_bytes() for path in running.iterdir()}
    watch(running, console, every=0.25, sleep=sleep)
    told = console.export_text()
    assert looks == [0.25] * 3 and told.count("25.0\xa0s left") == 1 and "holds its certificate" in told
    assert {path: path.read_bytes() for path in running.iterdir() if path in before} == before


def test_a_terminal_is_drawn_in_place(running: Path) -> None:
    _end(running)
    console = Console(width=100, file=io.StringIO(), force_terminal=True)
    watch(running, console)
    assert isinstance(console.file, io.StringIO) and "Guarded texts" in console.file.getvalue()


def test_a_sequence_shows_its_tasks_and_the_one_that_is_learnt(tmp_path: Path) -> None:
    folder = tmp_path / "sequence"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("tasks: [{name: colours}, {name: sizes}, {name: shapes}]\n")
    assert view(folder).said == "sequence: preparing 3 tasks"
    write_run(folder / "1-colours", SHAPES["governed"])
    (write_run(folder / "2-sizes", SHAPES["plain"]) / "certificate.json").unlink()
    seen = view(folder)
    assert seen.state == "running" and seen.said.startswith("sequence, task 2 of 3: 2-sizes: step 300")
    told = _printed(folder)
    assert "✓ holds" in told and "is being learnt" in told and "waits" in told
    (folder / "matrix.json").write_text('{"ended": true}')
    assert view(folder).state == "ended"


def test_a_half_written_recipe_is_no_reason_to_stop(running: Path) -> None:
    (running / "recipe.yaml").write_text("base: {tiny")
    assert "step 300" in view(running).said
    assert _blocks([*view(running).sections], Listing)
