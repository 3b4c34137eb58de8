"""The store: whole or not at all, never a pickle, and only what is complete is chosen."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from holdfast import checkpoint
from holdfast._errors import BadCheckpoint, TrainingStopped

STATE: dict[str, Any] = {
    "step": 7,
    "stopped": None,
    "share": 0.25,
    "order": [3, 1, 2],
    "empty": {},
    "nested": {"weights": {"a.b": torch.arange(6.0).view(2, 3).T, "half": torch.ones(2, dtype=torch.bfloat16)}},
    "generator": torch.Generator().manual_seed(5).get_state(),
    "several": [torch.zeros(0), torch.tensor(2.5, dtype=torch.float64), torch.tensor(True)],
}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b) and type(a) is type(b)


def saved(run_folder: Path, step: int, content: str = "weights") -> Path:
    folder = run_folder / f"checkpoint-{step}"
    with checkpoint.kept_whole(run_folder / ".saving" / folder.name, folder):
        staged = run_folder / ".saving" / folder.name
        (staged / "model.safetensors").write_text(content)
        (staged / "deeper").mkdir()
        (staged / "deeper" / "optimizer.pt").write_text("moments")
        checkpoint.write_state(staged, "rules", {"step": step})
    return folder


# States -------------------------------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.write_state(tmp_path, "rules", STATE)
    assert equal(checkpoint.read_state(tmp_path, "rules"), STATE)


def test_tuples_come_back_as_lists_and_tensors_without_their_history(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    checkpoint.write_state(tmp_path, "rules", {"pair": (1, weight)})
    back = checkpoint.read_state(tmp_path, "rules")["pair"]
    assert back[0] == 1 and torch.equal(back[1], torch.ones(3)) and not back[1].requires_grad


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    checkpoint.write_state(tmp_path, "rules", {"whole": whole, "part": whole[1:3]})
    assert equal(checkpoint.read_state(tmp_path, "rules"), {"whole": whole, "part": torch.tensor([1.0, 2.0])})


def test_nothing_of_ours_is_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    checkpoint.write_state(tmp_path, "rules", STATE)
    checkpoint.read_state(tmp_path, "rules")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["rules.json", "rules.safetensors"]
    json.loads((tmp_path / "rules.json").read_text())


def test_what_json_does_not_know_is_an_error_and_not_a_pickle(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoint.write_state(tmp_path, "rules", {"thing": object()})


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("harm", ["missing", "cut", "garbage"])
def test_a_damaged_state_is_refused_by_name(suffix: str, harm: str, tmp_path: Path) -> None:
    checkpoint.write_state(tmp_path, "rules", STATE)
    file = tmp_path / f"rules.{suffix}"
    content = file.read_bytes()
    file.unlink()
    if harm != "missing":
        file.write_bytes(content[: len(content) // 2] if harm == "cut" else b"\xff" * 40)
    with pytest.raises(BadCheckpoint, match="rules cannot be read"):
        checkpoint.read_state(tmp_path, "rules")


# Whole or not at all ------------------------------------------------------------------------------------------------


def test_a_published_folder_is_complete_and_leaves_no_staging(tmp_path: Path) -> None:
    folder = saved(tmp_path, 5)
    checkpoint.check(folder)
    assert checkpoint.newest(tmp_path) == folder
    assert not list((tmp_path / ".saving").iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "deeper/optimizer.pt", "rules.json"])
@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_an_incomplete_checkpoint_is_refused_by_name_and_the_newest_complete_one_taken(
    name: str, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = saved(tmp_path, 5), saved(tmp_path, 10)
    content = (newer / name).read_bytes()
    (newer / name).unlink()
    if harm == "cut":
        (newer / name).write_bytes(content[:-1])
    with pytest.raises(BadCheckpoint, match=f"checkpoint-10 is .*{name}"):
        checkpoint.check(newer)
    assert checkpoint.newest(tmp_path) == older
    assert name in caplog.text and "passed over" in caplog.text


@pytest.mark.parametrize("manifest", [None, "", "[]", '{"files": 3}'])
def test_a_folder_without_a_readable_seal_is_not_complete(manifest: str | None, tmp_path: Path) -> None:
    folder = saved(tmp_path, 5)
    (folder / checkpoint.MANIFEST).unlink()
    if manifest is not None:
        (folder / checkpoint.MANIFEST).write_text(manifest)
    with pytest.raises(BadCheckpoint, match=r"complete\.json"):
        checkpoint.check(folder)
    assert checkpoint.newest(tmp_path) is None


def test_what_is_needed_and_was_never_saved_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, 5)
    checkpoint.check(folder, ["rules", "model"])
    with pytest.raises(BadCheckpoint, match=r"saved without scheduler\.pt"):
        checkpoint.check(folder, ["rules", "scheduler.pt"])


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        saved(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "prepared").mkdir()
    assert [f.name for f in checkpoint.checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]


def test_a_failure_leaves_what_stood_there(tmp_path: Path) -> None:
    folder = saved(tmp_path, 5, "first")
    with (
        pytest.raises(ZeroDivisionError),
        checkpoint.kept_whole(tmp_path / ".saving" / "checkpoint-5", folder),
    ):
        (tmp_path / ".saving" / "checkpoint-5" / "model.safetensors").write_text("second")
        raise ZeroDivisionError
    checkpoint.check(folder)
    assert (folder / "model.safetensors").read_text() == "first"
    assert not (tmp_path / ".saving" / "checkpoint-5").exists()


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    saved(tmp_path, 5, "first")
    folder = saved(tmp_path, 5, "second")
    assert (folder / "model.safetensors").read_text() == "second"
    assert checkpoint.checkpoints(tmp_path) == [folder]


@pytest.mark.parametrize("moment", [1, 2])
def test_while_a_step_is_replaced_one_of_the_two_is_always_whole(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 5, "first")
    count = iter(range(1, 10))
    replace = os.replace

    def interrupted(source: Any, target: Any) -> None:
        if next(count) == moment:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, 5, "second")
    monkeypatch.undo()
    found = checkpoint.newest(tmp_path)
    assert found is not None and (found / "model.safetensors").read_text() == "first"
    saved(tmp_path, 5, "third")
    found = checkpoint.newest(tmp_path)
    assert found == tmp_path / "checkpoint-5" and (found / "model.safetensors").read_text() == "third"


def test_every_process_meets_before_and_after_the_first_one_moves(tmp_path: Path) -> None:
    folder, order = tmp_path / "checkpoint-1", []
    with checkpoint.kept_whole(tmp_path / "s", folder, meet=lambda: order.append(folder.exists())):
        (tmp_path / "s" / "file").write_text("x")
    assert order == [False, False, True]
    with checkpoint.kept_whole(tmp_path / "s", tmp_path / "checkpoint-2", first=False):
        pass
    assert not (tmp_path / "checkpoint-2").exists()


# Rotation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "protected", "left"),
    [
        (None, None, [1, 2, 3, 4]),
        (2, None, [3, 4]),
        (1, None, [4]),
        (2, 1, [1, 4]),
        (1, 1, [1, 4]),
        (9, None, [1, 2, 3, 4]),
    ],
)
def test_rotation_keeps_the_newest_and_the_protected(
    keep: int | None, protected: int | None, left: list[int], tmp_path: Path
) -> None:
    folders = {step: saved(tmp_path, step) for step in (1, 2, 3, 4)}
    checkpoint.rotate(tmp_path, keep, folders.get(protected or 0))
    assert checkpoint.checkpoints(tmp_path) == [folders[step] for step in left]


def test_rotation_never_deletes_the_only_complete_checkpoint(tmp_path: Path) -> None:
    folders = [saved(tmp_path, step) for step in (1, 2, 3)]
    for broken in folders[1:]:
        (broken / checkpoint.MANIFEST).unlink()
    checkpoint.rotate(tmp_path, 1)
    assert checkpoint.newest(tmp_path) == folders[0]


# A full disk --------------------------------------------------------------------------------------------------------


def _chained() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise RuntimeError("could not serialise") from error


FULL: dict[str, Callable[[], Any]] = {
    "system": lambda: _raise(OSError(errno.ENOSPC, "No space left on device")),
    "quota": lambda: _raise(OSError(errno.EDQUOT, "Disk quota exceeded")),
    "safetensors": lambda: _raise(SafetensorError("I/O error: No space left on device (os error 28)")),
    "torch": lambda: _raise(RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")),
    "torch, at the end": lambda: _raise(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64")),
    "wrapped": _chained,
}


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("how", FULL)
def test_a_full_disk_stops_the_run_and_leaves_earlier_checkpoints(how: str, tmp_path: Path) -> None:
    older = saved(tmp_path, 5)
    with (
        pytest.raises(TrainingStopped, match=r"disk is full.*checkpoint-9"),
        checkpoint.kept_whole(tmp_path / ".saving" / "checkpoint-9", tmp_path / "checkpoint-9"),
    ):
        (tmp_path / ".saving" / "checkpoint-9" / "model.safetensors").write_text("half")
        FULL[how]()
    assert checkpoint.newest(tmp_path) == older and checkpoint.checkpoints(tmp_path) == [older]
    assert not (tmp_path / ".saving" / "checkpoint-9").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("writer", ["safetensors", "torch", "json", "many files"])
def test_a_disk_that_is_really_full(writer: str, small_disk: Path) -> None:
    older = saved(small_disk, 5)
    staging = small_disk / ".saving" / "checkpoint-9"
    big = torch.zeros(1 << 17)
    with (
        pytest.raises(TrainingStopped, match="disk is full"),
        checkpoint.kept_whole(staging, small_disk / "checkpoint-9"),
    ):
        if writer == "safetensors":
            checkpoint.write_state(staging, "rules", {"big": big})
        elif writer == "torch":
            torch.save({"big": big}, staging / "optimizer.pt")
        elif writer == "json":
            checkpoint.write_state(staging, "rules", {"big": "x" * (1 << 19)})
        else:
            for i in range(200):
                (staging / f"file-{i}").write_bytes(b"x" * 4096)
    assert checkpoint.newest(small_disk) == older
    assert saved(small_disk, 10) == checkpoint.newest(small_disk)
