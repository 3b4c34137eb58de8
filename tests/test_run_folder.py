"""Stop, kill, resume: a resumed run is the uninterrupted one, and nothing but a whole checkpoint is resumed from."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from holdfast import checkpoint
from holdfast._errors import BadCheckpoint, TrainingStopped
from holdfast.remedies.l2sp import L2SP
from tests.models import build, lora
from tests.resumable import figures, made
from tests.test_every_rule import same
from tests.test_training import settings, trainer, weights

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The uninterrupted run, with its checkpoints 2, 4, 6 and 8."""
    host = made(tmp_path_factory.mktemp("whole"))
    before = weights(host.model)
    host.train()
    assert sum(not torch.equal(before[n], t) for n, t in weights(host.model).items()) > 10
    return host


@pytest.fixture
def place(whole: Any, tmp_path: Path) -> Path:
    """A copy of its folder."""
    return Path(shutil.copytree(whole.args.output_dir, tmp_path / "run"))


def equal(host: Any, whole: Any) -> bool:
    strengths = [[r.strength for r in h.rules] for h in (host, whole)]
    return (
        same(weights(host.model), weights(whole.model))
        and figures(host) == figures(whole)
        and strengths[0] == strengths[1]
    )


@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one(step: int, whole: Any, place: Path) -> None:
    host = made(place)
    host.train(str(place / f"checkpoint-{step}"))
    assert equal(host, whole)
    assert host.state.global_step == 8


@pytest.mark.slow
def test_a_run_can_be_resumed_into_another_folder_and_from_there_again(whole: Any, place: Path, tmp_path: Path) -> None:
    second = made(tmp_path / "second", max_steps=8)
    second.train(str(place / "checkpoint-2"))
    shutil.rmtree(place)
    shutil.rmtree(tmp_path / "second" / "checkpoint-8")
    third = made(tmp_path / "second")
    third.train(True)
    assert equal(second, whole) and equal(third, whole)


@pytest.mark.slow
def test_a_run_that_sigterm_stopped_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.resumable", str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("step 3"):
                child.send_signal(signal.SIGTERM)
                break
        rest = child.stdout.read()
    assert child.returncode == 0 and "stopped by itself" in rest
    (stopped,) = checkpoint.checkpoints(tmp_path / "run")
    step = int(stopped.name.split("-")[1])
    assert 3 <= step < 100
    more = {"max_steps": 200, "save_strategy": "no"}
    resumed = made(tmp_path / "run", **more, callbacks=[Until(step + 3)])
    resumed.train(True)
    uninterrupted = made(tmp_path / "other", **more, callbacks=[Until(step + 3)])
    uninterrupted.train()
    assert resumed.state.global_step == step + 3 and equal(resumed, uninterrupted)


class Until(TrainerCallback):
    """Stops a run after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


# What is refused ----------------------------------------------------------------------------------------------------

HARMED = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "rules.json"]


@pytest.mark.parametrize("name", HARMED)
def test_a_checkpoint_that_lacks_a_file_is_refused_by_name_and_an_older_one_taken(
    name: str, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "checkpoint-8" / name).unlink()
    host = made(place, max_steps=8)
    with pytest.raises(BadCheckpoint, match=rf"checkpoint-8 is not complete: {name} is missing"):
        host.train(str(place / "checkpoint-8"))
    assert host.run is None and host._folder.choose(place, True, _shapes(host)).folder == place / "checkpoint-6"
    assert name in caplog.text


def _shapes(host: Any) -> dict[str, list[int]]:
    return {n: list(p.shape) for n, p in host.model.named_parameters() if p.requires_grad}


def test_resuming_where_nothing_is_complete_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="no complete checkpoint"):
        made(tmp_path).train(True)


def test_a_checkpoint_without_its_optimizer_never_resumes_with_a_fresh_one(tmp_path: Path) -> None:
    made(tmp_path, max_steps=2, save_only_model=True).train()
    with pytest.raises(BadCheckpoint, match="saved without optimizer"):
        made(tmp_path).train(str(tmp_path / "checkpoint-2"))


def test_a_run_without_what_was_prepared_is_refused(place: Path) -> None:
    (place / "prepared" / "rules.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"prepared is not complete: rules\.safetensors"):
        made(place).train(str(place / "checkpoint-8"))


MODELS: dict[str, Callable[[], Any]] = {
    "an adapter": lambda: lora(build("llama")),
    "another architecture": lambda: build("gpt2"),
    "an untied head": lambda: build("llama", tied=False),
    "a larger vocabulary": lambda: _resized(build("llama")),
}


def _resized(model: Any) -> Any:
    model.resize_token_embeddings(100)
    return model


@pytest.mark.parametrize("other", MODELS)
def test_a_checkpoint_of_another_model_is_refused_with_the_reason(other: str, place: Path) -> None:
    host = trainer(MODELS[other](), settings(place), [])
    before = weights(host.model)
    with pytest.raises(BadCheckpoint, match=r"checkpoint-8 belongs to another model: .* there and .* here"):
        host.train(True)
    assert same(before, weights(host.model))


@pytest.mark.slow
def test_checkpoints_of_an_earlier_run_in_the_same_folder_are_passed_over(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = made(place, max_steps=2, seed=5)
    fresh.train()
    with pytest.raises(BadCheckpoint, match="belongs to another run"):
        made(place).train(str(place / "checkpoint-8"))
    again = made(place, max_steps=2, seed=5)
    again.train(True)
    assert again.state.global_step == 2 and same(weights(again.model), weights(fresh.model))
    assert "checkpoint-8 belongs to another run" in caplog.text


# What is written ----------------------------------------------------------------------------------------------------


def test_files_of_ours_are_safetensors_and_json(place: Path) -> None:
    theirs = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}
    for folder in (place / "prepared", place / "checkpoint-8"):
        ours = {f.name for f in folder.iterdir()} - theirs
        assert {"rules.json", "rules.safetensors", checkpoint.MANIFEST} <= ours
        assert {Path(name).suffix for name in ours} <= {".json", ".safetensors"}
    assert {f.name for f in (place / "prepared").iterdir()} & theirs == set()
    assert sorted(f.name for f in place.iterdir()) == [*(f"checkpoint-{i}" for i in (2, 4, 6, 8)), "prepared"]


def test_the_best_checkpoint_is_remembered_where_it_stands(tmp_path: Path) -> None:
    given = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    host = made(tmp_path, **given, save_total_limit=1, metric_for_best_model="loss", rules=[L2SP(1.0)])
    host.train()
    assert host.state.best_model_checkpoint and Path(host.state.best_model_checkpoint).is_dir()
    for folder in checkpoint.checkpoints(tmp_path):
        checkpoint.check(folder)
        best = json.loads((folder / "trainer_state.json").read_text())["best_model_checkpoint"]
        assert ".saving" not in best and Path(best).is_dir()


def test_older_checkpoints_go_only_after_the_new_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[list[str]] = []
    rotate = checkpoint.rotate

    def look(run_folder: Path, *args: Any) -> None:
        there.append([f.name for f in checkpoint.checkpoints(run_folder) if checkpoint.check(f) is None])
        rotate(run_folder, *args)

    monkeypatch.setattr(checkpoint, "rotate", look)
    made(tmp_path, max_steps=6, save_total_limit=1).train()
    assert there == [["checkpoint-2"], ["checkpoint-2", "checkpoint-4"], ["checkpoint-4", "checkpoint-6"]]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_full_disk_stops_the_run_which_then_resumes_from_the_checkpoint_before(
    part: str, whole: Any, tmp_path: Path
) -> None:
    host = made(tmp_path, save_total_limit=1)
    write = getattr(host, part)

    def full(folder: str, *args: Any, **kwargs: Any) -> None:
        write(folder, *args, **kwargs)
        if host.state.global_step == 6:
            raise OSError(errno.ENOSPC, "No space left on device")

    setattr(host, part, full)
    with pytest.raises(TrainingStopped, match=r"disk is full.*checkpoint-6"):
        host.train()
    assert [f.name for f in checkpoint.checkpoints(tmp_path)] == ["checkpoint-4"]
    assert not (tmp_path / ".saving").exists()
    resumed = made(tmp_path)
    resumed.train(True)
    assert equal(resumed, whole)


# Killed -------------------------------------------------------------------------------------------------------------


def write_for_ever(host: Any) -> None:
    """One checkpoint after the other through the Trainer's own saving; each step has weights that tell its number."""
    try:
        while True:
            host.state.global_step = host.run.step = host.run.step + 1
            with torch.no_grad():
                host.model.model.norm.weight.fill_(host.run.step)
            host._save_checkpoint(host.model, None)
    finally:
        os._exit(1)


def resumed_from(place: Path) -> int:
    """The step of the checkpoint that a new process would go on from, after going on from it."""
    found = checkpoint.newest(place)
    assert found is not None
    step = int(found.name.split("-")[1])
    host = trainer(build("llama"), settings(place, max_steps=step + 1), [L2SP(1.0)])
    saved = host._folder.choose(place, True, _shapes(host))
    assert saved.folder == found and saved.state["step"] == step
    assert load_file(found / "model.safetensors")["model.norm.weight"].eq(step).all()
    host.train(True)
    assert host.run.step == step + 1
    return step


@pytest.mark.slow
def test_killed_at_twenty_random_moments_of_writing_it_resumes_from_a_whole_checkpoint(tmp_path: Path) -> None:
    given = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    host = trainer(build("llama"), settings(tmp_path, **given), [L2SP(1.0)])
    with torch.no_grad():
        host.model.model.norm.weight.fill_(1.0)
    host.args.learning_rate = 0.0
    host.train()
    moments, halves = random.Random(0), 0
    for _ in range(20):
        child = os.fork()
        if child == 0:
            write_for_ever(host)
        time.sleep(moments.uniform(0.05, 0.6))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        halves += any((tmp_path / ".saving").glob("*"))
        host.run.step = resumed_from(tmp_path)
    assert halves and host.run.step > 20
