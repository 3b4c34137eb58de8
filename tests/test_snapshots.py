"""Snapshots: one file, bit for bit, small, and refused with the reason where it does not belong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from holdfast._errors import BadCheckpoint, TrainingStopped, Unsupported
from holdfast.rule import During, Rule
from holdfast.run import Run
from holdfast.snapshots import _put_together, _taken_apart, load_snapshot, read_snapshot, save_snapshot, saved_step
from holdfast.states import random_state
from holdfast.strategies.cyclic import Cyclic
from holdfast.strategies.frozen import Frozen
from holdfast.strategies.incremental import Incremental
from tests.models import build, lora
from tests.test_every_rule import EXAMPLES, batches, each_kind, same, started, weights


def scheduled(rules: list[Rule], kind: str = "llama") -> Run:
    """A run with dropout, AdamW and a schedule, that has begun."""
    run = started(kind, rules)
    run.scheduler = torch.optim.lr_scheduler.MultiStepLR(run.optimizer, [2, 4], gamma=0.5)
    return run


def everything(run: Run) -> str:
    """All state of a run as text."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _taken_apart({**run.snapshot(), "random": {**random_state(), "cuda": []}}, tensors)
    return f"{tree} {[t.tolist() for t in tensors.values()]}"


def onwards(run: Run) -> dict[str, torch.Tensor]:
    for batch in batches(4, seed=1):
        run.advance(batch)
    return weights(run)


@each_kind
@pytest.mark.parametrize("name", ["incremental", "cyclic", "selective", "adaptive", "unfreezing", "replay", "ewc"])
def test_back_is_back_bit_for_bit_in_the_same_run_and_in_a_new_one(name: str, kind: str, tmp_path: Path) -> None:
    run = scheduled(EXAMPLES[name](), kind)
    for batch in batches(3):
        run.advance(batch)
    save_snapshot(run, tmp_path / "kept.pkl")
    then, first = everything(run), onwards(run)
    load_snapshot(run, tmp_path / "kept.pkl")
    assert everything(run) == then
    assert same(first, onwards(run))
    fresh = scheduled(EXAMPLES[name](), kind)
    load_snapshot(fresh, tmp_path / "kept.pkl")
    assert same(first, onwards(fresh)) and saved_step(tmp_path / "kept.pkl") == 3


def test_the_file_is_there_whole_under_the_name_given_and_nothing_else(tmp_path: Path) -> None:
    run = scheduled([])
    save_snapshot(run, tmp_path / "deep" / "best_checkpoint.pkl")
    run.advance(batches(1)[0])
    save_snapshot(run, str(tmp_path / "deep" / "best_checkpoint.pkl"))
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["best_checkpoint.pkl"]
    assert saved_step(tmp_path / "deep" / "best_checkpoint.pkl") == 1


# Size ---------------------------------------------------------------------------------------------------------------


def wide(rules: list[Rule], prepared: Callable[[nn.Module], nn.Module] = lambda model: model) -> Run:
    """A run of a model that is large enough for a file's header not to count, one step on."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4
    )
    model = prepared(LlamaForCausalLM(config))
    run = Run(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3), rules)
    run.begin()
    run.advance(gradients={n: torch.ones_like(t) for n, t in run.tensors.items()})
    return run


@pytest.mark.parametrize(
    "run",
    [
        lambda: wide([]),
        lambda: wide([Frozen("embedding | layers(0:3)")]),
        lambda: wide([], lambda model: lora(model, r=16)),
        lambda: wide([Cyclic(steps=5)]),
    ],
)
def test_bytes_are_those_of_what_can_move_and_its_optimiser_state(run: Callable[[], Run], tmp_path: Path) -> None:
    made = run()
    save_snapshot(made, tmp_path / "kept")
    moving = [t for n, t in made.tensors.items() if n in made.moved]
    state = [v for t in moving for v in made.optimizer.state.get(t, {}).values()]
    assert moving and (tmp_path / "kept").stat().st_size <= 1.02 * sum(t.nbytes for t in [*moving, *state])


def test_what_was_left_out_comes_back_when_it_has_moved_since(tmp_path: Path) -> None:
    frozen = Frozen("layers(0:2)")
    run = scheduled([frozen])
    name = "model.layers.0.mlp.up_proj.weight"
    for batch in batches(2):
        run.advance(batch)
    save_snapshot(run, tmp_path / "kept")
    assert name not in read_snapshot(tmp_path / "kept").weights
    then = weights(run)
    frozen.thaw([name])
    onwards(run)
    assert not torch.equal(then[name], run.tensors[name]) and run.moved > {name}
    load_snapshot(run, tmp_path / "kept")
    assert same(then, weights(run)) and name not in run.moved


def test_what_has_moved_is_stored_though_it_is_held_now(tmp_path: Path) -> None:
    run = scheduled([During(2, 9, Frozen("layers(0:2)"))])
    for batch in batches(4):
        run.advance(batch)
    save_snapshot(run, tmp_path / "kept")
    assert read_snapshot(tmp_path / "kept").weights.keys() == run.tensors.keys() and run.held


def test_where_nobody_kept_what_was_left_out_it_is_refused(tmp_path: Path) -> None:
    run = scheduled([Frozen("layers(0:2)")])
    save_snapshot(run, tmp_path / "kept")
    other = scheduled([Frozen([])])
    other.advance(batches(1)[0])
    then = everything(other)
    with pytest.raises(BadCheckpoint, match=r"left out model.layers.0.*nobody kept"):
        load_snapshot(other, tmp_path / "kept")
    assert everything(other) == then


# What is refused ----------------------------------------------------------------------------------------------------


def broken(kind: str, file: Path) -> None:
    """Something at the place of a snapshot that is none, or not ours."""
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"weights": [1.0]}))
    elif kind == "torch":
        torch.save({"weights": torch.ones(2)}, file)
    elif kind == "foreign":
        save_file({"model.norm.weight": torch.ones(16)}, file)
    elif kind == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    elif kind == "stub":
        file.write_bytes(file.read_bytes()[:20])
    elif kind == "missing":
        file.unlink()


OTHERS: dict[str, tuple[Callable[[], Run], str]] = {
    "shapes": (lambda: scheduled([], "lora"), "belongs to another model"),
    "parts": (lambda: begun(build("llama"), lambda n: "layers.0" in n), "not trained here"),
    "base": (lambda: begun(lora(build("llama", seed=5)), lambda n: "lora" in n), "another base"),
    "rules": (lambda: scheduled([Incremental(2)]), "other rules"),
    "optimiser": (lambda: begun(build("llama"), lambda n: True, torch.optim.SGD), "another optimiser"),
    "schedule": (lambda: begun(build("llama"), lambda n: True), "learning rate schedule"),
}


def begun(model: nn.Module, trained: Callable[[str], bool], optimizer: Any = torch.optim.AdamW) -> Run:
    for name, p in model.named_parameters():
        p.requires_grad_(trained(name))
    run = Run(model, optimizer([p for p in model.parameters() if p.requires_grad], lr=1e-2), [], seed=3)
    run.begin()
    return run


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pickle", "looks like a pickle"),
        ("torch", "looks like a pickle"),
        ("foreign", "no snapshot of a run"),
        ("cut", "damaged, cut off"),
        ("stub", "damaged, cut off"),
        ("missing", "There is no snapshot"),
    ],
)
def test_what_is_no_snapshot_is_refused_and_touches_nothing(kind: str, said: str, tmp_path: Path) -> None:
    run = scheduled([Incremental(2)])
    run.advance(batches(1)[0])
    save_snapshot(run, tmp_path / "kept")
    broken(kind, tmp_path / "kept")
    then = everything(run)
    with pytest.raises(BadCheckpoint, match=said):
        load_snapshot(run, tmp_path / "kept")
    assert everything(run) == then


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_what_belongs_to_another_run_is_refused_and_touches_nothing(kind: str, tmp_path: Path) -> None:
    of_lora = kind == "base"
    run = begun(lora(build("llama")), lambda n: "lora" in n) if of_lora else scheduled([])
    run.advance(batches(1)[0])
    save_snapshot(run, tmp_path / "kept")
    build_other, said = OTHERS[kind]
    other = build_other()
    other.advance(batches(1, seed=9)[0])
    then = everything(other)
    with pytest.raises(BadCheckpoint, match=said):
        load_snapshot(other, tmp_path / "kept")
    assert everything(other) == then


def test_a_full_disk_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scheduled([])
    save_snapshot(run, tmp_path / "kept")
    former = (tmp_path / "kept").read_bytes()

    def full(tensors: Any, file: Path, metadata: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("holdfast.snapshots.save_file", full)
    with pytest.raises(TrainingStopped, match="disk is full"):
        save_snapshot(run, tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == former and len(list(tmp_path.iterdir())) == 1


# Trees --------------------------------------------------------------------------------------------------------------

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.integers(-9, 9).map(torch.tensor)
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(trees)
def test_trees_come_back_with_their_types(tree: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    plain = json.loads(json.dumps(_taken_apart(tree, tensors)))
    assert repr(_put_together(plain, tensors)) == repr(tree)


def test_arrays_and_tensors_of_every_kind_come_back() -> None:
    tensors: dict[str, torch.Tensor] = {}
    given_ = [torch.ones(2, 3).bfloat16(), torch.tensor(0.1, dtype=torch.float64), np.arange(5, dtype=np.uint32)]
    back = _put_together(_taken_apart(given_, tensors), tensors)
    assert torch.equal(back[0], given_[0]) and back[0].dtype == torch.bfloat16  # type: ignore[arg-type]
    assert torch.equal(back[1], given_[1]) and back[1].dtype == torch.float64  # type: ignore[arg-type]
    assert np.array_equal(back[2], given_[2]) and back[2].dtype == np.uint32
    with pytest.raises(Unsupported, match="a object"):
        _taken_apart(object(), tensors)
