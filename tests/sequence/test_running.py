"""A sequence carried out: where each task starts, what is scored, and that it can be stopped anywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from holdfast._errors import BadInput, UnknownName
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.data.formats import read
from holdfast.evaluation.matrix import figures
from holdfast.evaluation.metrics import choice_accuracy
from holdfast.evaluation.report import read_run, read_sequences, write_sequence_report
from holdfast.sequence import Outcome, load, run
from holdfast.sequence.material import Material
from tests.sequence.small import recipe

LESS = ("train.max_steps=2", "tasks.plays.items=4")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(recipe(tmp_path_factory.mktemp("ran")))


def matrix(folder: Path) -> dict[str, Any]:
    """What a matrix says, but for the time it took."""
    told: dict[str, Any] = json.loads((folder / "matrix.json").read_text("utf-8"))
    return {key: value for key, value in told.items() if key != "seconds"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "final/model.safetensors"))


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_sequence_leaves_a_run_per_task_and_its_own_outcome(ran: Outcome) -> None:
    left = {path.name for path in ran.folder.iterdir()}
    runs = {"1-colours", "2-sizes", "3-plays"}
    reports = {"report.html", "report.json", "report.md"}
    assert left == {*runs, "recipe.yaml", "matrix.json", "certificate.json", *reports, "final", "scores"}
    assert all((ran.folder / name / "certificate.json").is_file() for name in runs)
    assert same(weights(ran.folder), weights(ran.folder / "3-plays"))
    assert "3-plays" in (ran.folder / "report.html").read_text("utf-8")
    assert not read_run(ran.folder).missing.keys() - {"log.jsonl", "samples.json"}


def test_each_task_starts_from_the_model_before(ran: Outcome) -> None:
    starts = [load(ran.folder / "recipe.yaml").base]
    for name in ("2-sizes", "3-plays"):
        line = next(t for t in (ran.folder / name / "recipe.yaml").read_text("utf-8").splitlines() if "base:" in t)
        starts.append(line.removeprefix("base: "))
    assert starts == ["tiny", str(ran.folder / "1-colours/final"), str(ran.folder / "2-sizes/final")]
    second = json.loads((ran.folder / "2-sizes/certificate.json").read_text("utf-8"))
    assert second["base"]["digest"] == load_base(ran.folder / "1-colours/final").digest


def test_the_matrix_is_what_each_final_model_does_on_the_test_records(ran: Outcome) -> None:
    assert ran.matrix is not None
    models = ["tiny", *(ran.folder / name / "final" for name in ran.matrix["runs"])]
    told = ran.matrix["accuracy"]
    assert told["tasks"] == ["colours", "sizes"] and ran.matrix["metrics"]["plays"] == "loss"
    for stage, place in enumerate(models):
        base = load_base(place)
        for j, name in enumerate(told["tasks"]):
            if (cell := told["cells"][stage][j]) is not None:
                records = read(str(ran.folder.parent / f"{name}.test.jsonl"))
                right = choice_accuracy(base.model, base.tokenizer, records).each()
                assert cell["mean"] == pytest.approx(float(right.mean()))


def test_tasks_so_far_and_the_next_are_scored_after_each(ran: Outcome) -> None:
    assert ran.matrix is not None
    cells = ran.matrix["loss"]["cells"]
    known = [[cell is not None for cell in row] for row in cells]
    assert known == [[True] * 3, [True, True, False], [True] * 3, [True] * 3]
    values = torch.tensor([[float("nan") if c is None else c["mean"] for c in row] for row in cells])
    for name, figure in figures(values.numpy(), higher=False).items():
        assert ran.matrix["loss"]["figures"][name]["mean"] == pytest.approx(float(figure), rel=1e-4)
    learnt = ran.matrix["loss"]["cells"]
    assert learnt[1][0]["mean"] < learnt[0][0]["mean"] - 1


def test_the_certificate_counts_texts_from_the_base_and_tasks_from_when_they_were_learnt(ran: Outcome) -> None:
    assert ran.certificate is not None and ran.matrix is not None
    cells = ran.matrix["loss"]["cells"]
    kept = {entry["text"]: entry["rise"] for entry in ran.certificate["kept"]}
    assert kept["colours"] == pytest.approx(cells[3][0]["mean"] - cells[1][0]["mean"], abs=1e-6)
    assert kept["sizes"] == pytest.approx(cells[3][1]["mean"] - cells[2][1]["mean"], abs=1e-6)
    stories = str(ran.folder.parent / "stories.txt")
    assert kept[stories] == pytest.approx(ran.matrix["general"][stories][3]["mean"])
    assert ran.matrix["general"][stories][0]["mean"] == 0.0


def test_earlier_tasks_are_watched_while_a_new_one_is_learnt(ran: Outcome) -> None:
    logs = [(ran.folder / name / "log.jsonl").read_text("utf-8").splitlines() for name in ("1-colours", "2-sizes")]
    texts = [{line["text"] for line in map(json.loads, log) if line["kind"] == "probe"} for log in logs]
    assert texts[1] - texts[0] == {"colours"}


def test_no_record_that_measures_a_task_is_learnt(tmp_path: Path) -> None:
    own = recipe(tmp_path)
    tested = (tmp_path / "colours.test.jsonl").read_text("utf-8").splitlines()
    for name in ("colours", "sizes"):
        train = tmp_path / f"{name}.train.jsonl"
        train.write_text("\n".join([*train.read_text("utf-8").splitlines(), *tested]), "utf-8")
    lessons = Material(own, load_base("tiny")).lessons
    judged = {tuple(row["input_ids"]) for part in ("control", "audit") for row in _rows(lessons[0].guarded, part)}
    assert len(judged) > len(tested) and all(len(lesson.rows) > 10 for lesson in lessons)
    assert not judged & {tuple(row["input_ids"]) for lesson in lessons for row in lesson.rows}


def _rows(guarded: Any, part: str) -> list[Any]:
    return list(getattr(guarded, part).rows)


STOPS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "between": lambda line: line["kind"] == "stage" and line["text"].startswith("sizes: scoring"),
    "inside": lambda line: line["kind"] == "step" and line["step"] == 2 and line["of"] == 4,
}


class Killed(Exception):
    """Nothing of ours catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["between", "inside"])
def test_a_sequence_that_was_killed_goes_on_to_the_same_end(where: str, tmp_path: Path) -> None:
    rules = "rules=[replay: {share: 0.5, source: tasks}, distill: {}, ewc: {source: before, importance: before}]"
    own = recipe(tmp_path, "tasks.sizes.train={max_steps: 4, save_steps: 1}", "train.max_steps=2", rules)
    whole = run(own)
    shutil.move(whole.folder, tmp_path / "whole")

    def kill(line: Mapping[str, Any]) -> None:
        if STOPS[where](line):
            raise Killed

    with pytest.raises(Killed):
        run(own, progress=kill)
    seen: list[str] = []
    again = run(own, resume=True, progress=lambda line: seen.append(str(line.get("text", line.get("step")))))
    assert not any(text.startswith("colours: loading") for text in seen)
    assert any(text.startswith("sizes: loading") for text in seen) == (where == "inside")
    assert matrix(again.folder) == matrix(tmp_path / "whole")
    assert same(weights(again.folder), weights(tmp_path / "whole"))
    with pytest.raises(BadInput, match="came to its end"):
        run(own, resume=True)


@pytest.mark.slow
def test_the_model_before_a_task_makes_up_what_is_replayed(tmp_path: Path) -> None:
    own = recipe(tmp_path, *LESS, "rules=[replay: {share: 0.5, source: before/self}]")
    told: list[str] = []
    outcome = run(own, progress=lambda line: told.append(str(line.get("text"))))
    assert [text for text in told if "makes text up" in text] == [
        f"{name}: the model before it makes text up" for name in ("sizes", "plays")
    ]
    before = yaml.safe_load((outcome.folder / "1-colours/recipe.yaml").read_text("utf-8"))["rules"][0]["replay"]
    assert before["share"] == 0.0
    material = Material(own, load_base("tiny"))
    rows = [material.made_up(load_base(outcome.folder / name / "final"), 2) for name in ("1-colours", "2-sizes")]
    assert rows[0].keys() == {"before/self"} and rows[0] != rows[1]
    assert rows[1] == material.made_up(load_base(outcome.folder / "2-sizes/final"), 2)
    with pytest.raises(UnknownName, match="before/sound"):
        recipe(tmp_path, "rules=[replay: {share: 0.5, source: before/sound}]")


@pytest.mark.slow
def test_a_signal_inside_a_task_is_no_end(tmp_path: Path) -> None:
    own = recipe(tmp_path, *LESS)

    def ask(line: Mapping[str, Any]) -> None:
        if line["kind"] == "step" and line["step"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    halted = run(own, progress=ask)
    assert halted.matrix is None and halted.verdict is None
    with pytest.raises(BadInput, match="begun with another `seed`"):
        run(own.model_copy(update={"seed": 4}), resume=True)
    with pytest.raises(BadInput, match="already there"):
        run(own)
    assert run(own, resume=True).matrix is not None


@pytest.mark.slow
def test_budgets_hold_for_texts_and_for_earlier_tasks_together(tmp_path: Path) -> None:
    budget = f"keep.budget={{'{tmp_path / 'stories.txt'}': 4.0, tasks: 5000.0, colours: 5000.0}}"
    watched = ("keep.every=1", "keep.look=4", "keep.confidence=0.9", "monitor.every=1", "spend=freely")
    outcome = run(recipe(tmp_path, *LESS, budget, *watched))
    third = [json.loads(line) for line in (outcome.folder / "3-plays/log.jsonl").read_text("utf-8").splitlines()]
    governed = {line["text"] for line in third if line["kind"] == "probe" and "budget" in line}
    assert governed == {str(tmp_path / "stories.txt"), "tasks", "colours"}
    assert outcome.certificate is not None and outcome.verdict == "holds"
    by_name = {entry["text"]: entry for entry in outcome.certificate["kept"]}
    assert by_name["tasks"]["budget"] == 5000.0 and by_name["sizes"]["verdict"] is None
    pooled, parts = by_name["tasks"], [by_name[name] for name in ("colours", "sizes")]
    mean = sum(part["rise"] * part["tokens"] for part in parts) / pooled["tokens"]
    assert pooled["rise"] == pytest.approx(mean) and pooled["n"] == sum(part["n"] for part in parts)


def test_a_budget_that_cannot_be_resolved_is_refused_before_the_first_task(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be told from chance"):
        run(recipe(tmp_path, "keep.budget={tasks: 0.01}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["continue", "merge"])
def test_an_adapter_learns_on_or_is_merged_and_begun_anew(adapter: str, tmp_path: Path) -> None:
    lora = ("method={name: lora, rank: 2}", "train.learning_rate=1e-2", f"adapter={adapter}")
    rules = {"continue": "si: {importance: before}", "merge": "olora: {adapters: tasks}"}
    outcome = run(recipe(tmp_path, *LESS, *lora, f"rules=[{rules[adapter]}]", "references=[joint, single]"))
    assert outcome.matrix is not None
    seeds = [
        yaml.safe_load((task / "recipe.yaml").read_text("utf-8"))["seed"] for task in outcome.folder.glob("[1-3]-*")
    ]
    assert len(set(seeds)) == 3
    finals = [load_file(outcome.folder / name / "final/adapter_model.safetensors") for name in outcome.matrix["runs"]]
    assert all(finals[0].keys() == final.keys() and not same(finals[0], final) for final in finals[1:])
    assert (outcome.folder / "1-colours/merged").is_dir() == (adapter == "merge")
    loss = [load_adapted(outcome.folder / "final"), load_adapted(outcome.folder / "3-plays/final")]
    assert loss[0].digest == loss[1].digest
    references = outcome.matrix["references"]
    assert set(references) == {"joint", "single"}
    cells = outcome.matrix["accuracy"]["cells"]
    assert set(references["single"]["accuracy"]["tasks"]) == {"colours", "sizes"} and cells[1][0] is not None
    assert references["single"]["loss"]["tasks"]["sizes"] < outcome.matrix["loss"]["cells"][0][1]["mean"]


@pytest.mark.slow
def test_several_sequences_are_told_together_with_an_interval_over_seeds(ran: Outcome, tmp_path: Path) -> None:
    other = run(recipe(tmp_path, *LESS, "seed=1"))
    page = write_sequence_report([ran.folder, other.folder], tmp_path / "both.html").read_text("utf-8")
    assert "mean of 2" in page and "interval over seeds" in page
    assert [record.matrix["seed"] for record in read_sequences([ran.folder, other.folder])] == [0, 1]
    with pytest.raises(BadInput, match="no sequence"):
        read_sequences([ran.folder, ran.folder / "1-colours"])
