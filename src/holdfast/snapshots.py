"""One file that a run can be brought back to bit for bit: what can move, optimiser, schedule, random states, rules."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from holdfast._errors import BadCheckpoint, Unsupported
from holdfast.checkpoint import file_kept_whole
from holdfast.params.fingerprint import sampled, structure
from holdfast.params.weights import Values, local
from holdfast.run import Run
from holdfast.states import random_state

FORMAT = "run snapshot, 1"


@dataclass(frozen=True)
class Saved:
    """What a snapshot file holds: the values of what can move, by path, and all else as a tree."""

    file: Path
    weights: Values
    tree: Mapping[str, Any]


def save_snapshot(run: Run, file: str | Path) -> None:
    """Write all that `load_snapshot` needs to exactly this path, whole or not at all, as one safetensors file.

    Holds the values of what can move, optimiser, scheduler and random states, and the rules' states; the model's other
    weights are only fingerprinted. What is held and has never moved is left out too: it is what it was in the base, and
    should it move later, the run keeps its value. Raises Unsupported for weights that are split over processes and
    for a state that JSON and tensors cannot hold, and TrainingStopped when the disk is full.
    """
    if any(isinstance(t, DTensor) for t in run.tensors.values()):
        raise Unsupported("A snapshot file holds whole tensors, which FSDP2 splits; use the Trainer's checkpoints.")
    left_out = run.leave_out()
    tensors = {n: t.detach().cpu().contiguous() for n, t in run.tensors.items() if n not in left_out}
    state = {
        "optimizer": run.optimizer.state_dict(),
        "scheduler": None if run.scheduler is None else run.scheduler.state_dict(),
        "random": _with_array(random_state()),
        "run": run.state(),
        **_belonging(run, left_out),
    }
    tree = json.dumps(_taken_apart(state, tensors), separators=(",", ":"))
    with file_kept_whole(Path(file)) as half:
        save_file(tensors, half, metadata={"holdfast": FORMAT, "step": str(run.step), "tree": tree})


def load_snapshot(run: Run, file: str | Path) -> None:
    """Bring a run back to what `save_snapshot` wrote; the same run, or one built alike on the same base.

    Raises BadCheckpoint with the reason, before anything is touched: for a missing, damaged or foreign file (pickle is
    never opened), and for another model, base, optimiser or list of rules.
    """
    saved = read_snapshot(file)
    back = _compared(run, saved)
    tree = saved.tree
    run.restore(
        {
            "weights": {**saved.weights, **back},
            "optimizer": tree["optimizer"],
            "scheduler": tree["scheduler"],
            "random": _with_tuple(tree["random"]),
            "run": tree["run"],
        }
    )


def read_snapshot(file: str | Path) -> Saved:
    """What a snapshot file holds, on the CPU; raises BadCheckpoint for a file that is missing or none."""
    file = Path(file)
    with _opened(file) as (stored, told):
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        tree = _put_together(json.loads(told["tree"]), tensors)
    return Saved(file, {key: t for key, t in tensors.items() if not key.startswith("#")}, tree)


def saved_step(file: str | Path) -> int:
    """The number of steps that the run had made when it was saved, without reading any tensor; errors as above."""
    with _opened(Path(file)) as (_, told):
        return int(told["step"])


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, Mapping[str, str]]]:
    if not file.is_file():
        raise BadCheckpoint(f"There is no snapshot {file}. Check the path, or save one first.")
    try:
        with safe_open(str(file), framework="pt") as stored:
            told = stored.metadata() or {}
            if told.get("holdfast") != FORMAT:
                raise BadCheckpoint(f"{file} holds tensors, but no snapshot of a run; only those can be gone back to.")
            yield stored, told
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise BadCheckpoint(f"{file} is no whole snapshot: {_looks_like(file)} ({error}).") from error


def _belonging(run: Run, left_out: frozenset[str], back: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """By what a snapshot knows its run: structure, values that are not stored, optimiser and rules."""
    resting = {n: p for n, p in run.model.named_parameters() if n not in run.tensors or n in left_out}
    return {
        "left_out": sorted(left_out),
        "structure": structure(run.model),
        "fingerprint": sampled({**resting, **(back or {})}),
        "optimiser": [type(run.optimizer).__name__, [len(g["params"]) for g in run.optimizer.param_groups]],
        "scheduled": run.scheduler is not None,
        "rules": sorted(run.state()["rules"]),
    }


def _compared(run: Run, saved: Saved) -> Values:
    """Raise BadCheckpoint unless the file belongs to this run; what it left out and has moved since comes back."""
    left_out = frozenset(saved.tree["left_out"])
    for name in sorted(run.tensors.keys() | saved.weights.keys() | left_out):
        there = "held" if name in left_out else _form(saved.weights.get(name))
        here = "held" if name in left_out & run.tensors.keys() else _form(run.tensors.get(name))
        if here != there:
            raise BadCheckpoint(
                f"{saved.file} belongs to another model: {name} is {there} there and {here} here. "
                "Build the model (and its adapter) as it was when the snapshot was saved."
            )
    back = {name: _unmoved(run, name, saved.file) for name in sorted(left_out)}
    ours = _belonging(run, left_out, back)
    for key, what in _REASONS.items():
        if ours[key] != saved.tree[key]:
            raise BadCheckpoint(f"{saved.file} cannot be gone back to: {what}.")
    return {name: value for name, value in back.items() if name in run.moved}


_REASONS = {
    "structure": "the model has other parameters beside those that train",
    "fingerprint": "it belongs to another base, whose other weights are not the same",
    "optimiser": "it was saved with another optimiser, or with other parameter groups",
    "scheduled": "one of the two runs has a learning rate schedule and the other has none",
    "rules": "it was saved with other rules",
}


def _unmoved(run: Run, name: str, file: Path) -> Tensor:
    value = run.unmoved(name)
    if value is None:
        raise BadCheckpoint(
            f"{file} left out {name}, which was held and had never moved, and nobody kept its value when it did. "
            "Load the base anew and go back to the snapshot from there."
        )
    return value


def _form(tensor: Tensor | None) -> str:
    return "not trained" if tensor is None else f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _looks_like(file: Path) -> str:
    """What a file is that is no safetensors file, as far as its first bytes tell."""
    with file.open("rb") as stored:
        head = stored.read(4)
    if head == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return "it looks like a pickle, as torch.save writes it, and those are never opened"
    return "it is damaged, cut off, or something else"


def _with_array(state: Mapping[str, Any]) -> dict[str, Any]:
    """The random states with Python's 625 numbers as one array."""
    version, numbers, gauss = state["python"]
    return {**state, "python": (version, np.array(numbers, dtype=np.uint32), gauss)}


def _with_tuple(state: Mapping[str, Any]) -> dict[str, Any]:
    version, numbers, gauss = state["python"]
    return {**state, "python": (version, tuple(numbers.tolist()), gauss)}


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold, losing no type; tensors go to `tensors` unless they are a single number."""
    if isinstance(value, Tensor):
        value = local(value).cpu()
        if value.dim() == 0 and value.dtype in (torch.float32, torch.int64):
            return {"$number": [str(value.dtype).removeprefix("torch."), value.item()]}
        return {"$tensor": _put(value.contiguous(), tensors)}
    if isinstance(value, np.ndarray):
        return {"$array": [value.dtype.str, _put(torch.from_numpy(value.view(np.uint8).copy()), tensors)]}
    if isinstance(value, Mapping):
        pairs = [[_taken_apart(k, tensors), _taken_apart(v, tensors)] for k, v in value.items()]
        plain = all(isinstance(k, str) and not k.startswith("$") for k in value)
        return dict(pairs) if plain else {"$pairs": pairs}
    if isinstance(value, tuple):
        return {"$tuple": [_taken_apart(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_taken_apart(v, tensors) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise Unsupported(f"A snapshot cannot hold {value!r}, a {type(value).__name__}; it is made of tensors and JSON.")


def _put(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    key = f"#{len(tensors)}"
    tensors[key] = tensor.clone()  # a file must not hold two tensors that share memory
    return key


def _put_together(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_put_together(v, tensors) for v in tree]
    if not isinstance(tree, dict):
        return tree
    match [*tree.items()]:
        case [("$tensor", key)]:
            return tensors[key]
        case [("$number", [dtype, number])]:
            return torch.tensor(number, dtype=getattr(torch, dtype))
        case [("$array", [dtype, key])]:
            return tensors[key].numpy().view(dtype)
        case [("$pairs", pairs)]:
            return {_put_together(k, tensors): _put_together(v, tensors) for k, v in pairs}
        case [("$tuple", values)]:
            return tuple(_put_together(v, tensors) for v in values)
        case items:
            return {k: _put_together(v, tensors) for k, v in items}
