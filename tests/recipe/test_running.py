"""A recipe carried out: what it leaves, that it can be repeated and resumed, and what happens when it cannot go on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from holdfast import checkpoint
from holdfast._errors import BadInput, TrainingStopped
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.report import read_run
from holdfast.recipe import Result, load, run
from holdfast.recipe.texts import Texts
from tests.recipe.small import recipe


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(recipe(tmp_path_factory.mktemp("ran")))


@pytest.fixture(autouse=True)
def no_page(ran: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures take most of the time of so short a run; the first one has them."""
    monkeypatch.setattr("holdfast.recipe.running.write_report", lambda runs, target, title: target)


def certificate(folder: Path) -> dict[str, Any]:
    """What a certificate says, but for the time it took."""
    read: dict[str, Any] = json.loads((folder / "certificate.json").read_text("utf-8"))
    return {key: value for key, value in read.items() if key not in ("seconds", "memory", "date", "monitoring")}


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def final(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_base(folder / "final").model.state_dict())


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_leaves_all_that_it_promises(ran: Result) -> None:
    left = {path.name for path in ran.folder.iterdir()}
    reports = {"report.html", "report.md", "report.json"}
    assert left == {"recipe.yaml", "log.jsonl", "certificate.json", "samples.json", "final", *reports}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in (ran.folder / "final").iterdir()
    }
    assert not list((ran.folder / "final").glob("*.bin"))
    checkpoint.check(ran.folder / "final")
    assert read_run(ran.folder).missing == {}


def test_the_certificate_is_what_the_final_model_does_on_the_audit_rows(ran: Result) -> None:
    told = certificate(ran.folder)
    assert (
        told["verdict"] == ran.verdict and told["steps"] == 4 and told["stopped"] is None and told["method"] == "full"
    )
    base, tuned = load_base("tiny"), load_base(ran.folder / "final")
    texts = Texts(load(ran.folder / "recipe.yaml"), base)
    for entry in told["kept"]:
        audit = texts.guarded[entry["text"]].audit
        before, after = (sequence_losses(b.model, audit.rows) for b in (base, tuned))
        assert entry["rise"] == pytest.approx(after.mean() - before.mean(), abs=1e-6)
        assert entry["budget"] == 0.9 and entry["source"] == audit.source and entry["n"] == audit.documents
    (learnt,) = told["learnt"]
    evaluation = texts.learn[1]
    assert learnt["loss"] == pytest.approx(sequence_losses(tuned.model, evaluation.rows).mean(), abs=1e-6)
    assert learnt["gain"] > 0.05
    assert told["base"] == {"name": "tiny", "digest": base.digest}


def test_the_log_has_every_kind_of_line(ran: Result) -> None:
    lines = log(ran.folder)
    assert {line["kind"] for line in lines} == {"train", "learn", "probe", "governor", "movement", "buffer"}
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    assert all(line["step"] in (2, 4) for line in lines if line["kind"] in ("learn", "movement"))


def test_samples_show_base_and_tuned_on_an_old_and_a_new_prompt(ran: Result) -> None:
    samples = json.loads((ran.folder / "samples.json").read_text("utf-8"))
    assert [sample["about"] for sample in samples] == ["old", "new"]
    assert all(sample["prompt"] and sample["base"] and sample["tuned"] for sample in samples)


@pytest.mark.slow
def test_the_resolved_recipe_gives_the_same_figures_again(ran: Result, tmp_path: Path) -> None:
    again = run(load(ran.folder / "recipe.yaml"), folder=tmp_path / "again")
    assert certificate(again.folder) == certificate(ran.folder)
    assert log(again.folder) == log(ran.folder)
    assert same(final(again.folder), final(ran.folder))


def test_an_interrupted_run_is_resumed_to_the_same_end(ran: Result, tmp_path: Path) -> None:
    def stop(line: Mapping[str, Any]) -> None:
        if line["kind"] == "step" and line["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    halted = load(ran.folder / "recipe.yaml")
    first = run(halted, folder=tmp_path / "run", progress=stop)
    assert first.certificate is None and first.verdict is None
    assert (tmp_path / "run/checkpoint-3").is_dir() and not (tmp_path / "run/final").exists()
    with pytest.raises(BadInput, match="begun with another `seed`"):
        run(halted.model_copy(update={"seed": 3}), folder=tmp_path / "run", resume=True)
    second = run(halted, folder=tmp_path / "run", resume=True)
    assert certificate(second.folder) == certificate(ran.folder)
    assert log(second.folder) == log(ran.folder)
    assert same(final(second.folder), final(ran.folder))
    with pytest.raises(BadInput, match="came to its end"):
        run(halted, folder=tmp_path / "run", resume=True)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"already there.*--resume"):
        run(recipe(tmp_path))
    with pytest.raises(BadInput, match=r"no run in .* to go on with"):
        run(recipe(tmp_path), resume=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("keep.budget=0.0001", "cannot be told from chance"),
        ("learn.data=nowhere.txt", r"no file or folder nowhere\.txt"),
        ("train.lr_scheduler_type=bumpy", "`train` cannot be used"),
        ("rules.replay.within=mlp", "batch"),
        ("rules=[frozen: {select: '\"*.q_porj*\"'}]", "q_proj"),
    ],
)
def test_what_cannot_begin_leaves_nothing_behind(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        run(recipe(tmp_path, override))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_admitted(tmp_path: Path) -> None:
    wild = recipe(tmp_path, "train.learning_rate=1e38", "train.max_grad_norm=0", "train.max_steps=6")
    with pytest.raises(TrainingStopped, match="not a finite number"):
        run(wild)
    told = certificate(tmp_path / "run")
    assert "not a finite number" in told["stopped"] and told["steps"] < 6
    assert told["verdict"] == "holds"
    assert all(bool(tensor.isfinite().all()) for tensor in final(tmp_path / "run").values())
    assert "not a finite number" in next(line["text"] for line in log(tmp_path / "run") if line["kind"] == "note")


def test_lora_leaves_an_adapter_that_does_what_the_certificate_says(tmp_path: Path) -> None:
    result = run(recipe(tmp_path, "method.name=lora", "method.rank=2", "train.learning_rate=1e-2"))
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in (result.folder / "final").iterdir()
    }
    base, tuned = load_base("tiny"), load_adapted(result.folder / "final")
    evaluation = Texts(load(result.folder / "recipe.yaml"), base).learn[1]
    after = sequence_losses(tuned.model, evaluation.rows).mean()
    assert certificate(result.folder)["learnt"][0]["loss"] == pytest.approx(after, abs=1e-6)
    assert after < sequence_losses(base.model, evaluation.rows).mean()


def test_without_a_budget_nothing_is_judged(tmp_path: Path) -> None:
    result = run(recipe(tmp_path, "keep={probe: none}", "rules=[l2sp, frozen: {select: norm, during: [0, 2]}]"))
    assert result.verdict is None and result.certificate is not None and result.certificate["kept"] == []


@pytest.mark.slow
def test_a_run_that_stops_early_ends_with_its_best_weights(tmp_path: Path) -> None:
    """What it made up itself only gets worse, so the first look is the best one, and that is what is left."""
    asked = recipe(
        tmp_path, "keep.govern=false", "keep.budget=null", "rules=[]", "train.max_steps=40", "method.name=lora",
        "train.learning_rate=0.03", "train.lr_scheduler_type=constant", "early_stopping.patience=2",
        "early_stopping.every=2", "early_stopping.metric=self",
    )  # fmt: skip
    result = run(asked)
    assert result.certificate is not None and result.certificate["steps"] == 6
    assert "ended after step 6 of 40; what is left are the weights of step 2" in result.certificate["stopped"]
    lines = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    assert any("got no better" in line.get("text", "") for line in lines)
    state = json.loads((result.folder / "checkpoint-6" / "trainer_state.json").read_text())
    looks = {line["step"]: line["eval_self_loss"] for line in state["log_history"] if "eval_self_loss" in line}
    assert looks[2] < looks[4] and looks[2] < looks[6]
    first, final = (
        load_file(result.folder / place / "adapter_model.safetensors") for place in ("checkpoint-2", "final")
    )
    assert first.keys() == final.keys() and all(torch.equal(first[n], final[n]) for n in first)
