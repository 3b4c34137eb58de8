"""What two processes have to keep; each check runs on both: `torchrun --nproc-per-node 2 -m tests.two_ranks FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from holdfast import checkpoint
from holdfast._errors import TrainingStopped, Unsupported
from holdfast.adapters.method import methods
from holdfast.remedies.distill import Distill
from holdfast.remedies.ewc import EWC
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.replay import Replay
from holdfast.rule import REPLAYED, Batch, Rule
from holdfast.run import Run
from holdfast.strategies.frozen import Frozen
from holdfast.vocabulary.rows import lay, new_rows
from tests.models import WIDTH, build, lora
from tests.resumable import figures, made
from tests.test_every_rule import ROWS, batches

RANK = int(os.environ.get("RANK", 0))


def sharded(model: Any) -> nn.Module:
    """FSDP2: each block, and the rest as the root, whose tensors stay gathered between forward and backward pass."""
    mesh = init_device_mesh("cpu", (2,))
    blocks = model.get_base_model().model.layers if hasattr(model, "get_base_model") else model.model.layers
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def begun(wrap: Callable[[Any], nn.Module], rules: list[Rule], model: Any = None) -> Run:
    torch.manual_seed(7)
    model = wrap(build("llama", dropout=0.0) if model is None else model).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    run = Run(model, optimizer, rules, seed=3)
    run.begin()
    return run


def whole(run: Run) -> dict[str, Tensor]:
    """The weights, gathered."""
    return {
        n.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for n, p in run.model.named_parameters()
    }


def mine(step: int) -> Batch:
    """This process's half of a batch."""
    return {k: v[RANK * 2 : RANK * 2 + 2] for k, v in batches(step + 1)[step].items()}


def all_of(step: int) -> Batch:
    """The whole batch, as one process alone has it."""
    return batches(step + 1)[step]


def plain(model: Any) -> nn.Module:
    """Not wrapped at all."""
    found: nn.Module = model
    return found


@contextmanager
def alone() -> Iterator[None]:
    """Runs that know of no other process."""
    with patch("holdfast.run.place", lambda: (0, 1)), patch("holdfast.processes.place", lambda: (0, 1)):
        yield


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in a)


def logits(run: Run) -> Tensor:
    with torch.no_grad(), run.aside():
        found: Tensor = run.model(input_ids=mine(0)["input_ids"]).logits
        return found


def gradients(run: Run, between: bool) -> list[Tensor]:
    loss = run.model(**mine(0)).loss
    if between:
        run.base(mine(0))
    loss.backward()
    found = [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad.clone() for p in run.tensors.values()]
    run.optimizer.zero_grad()
    return found


# Checks of one pipeline ---------------------------------------------------------------------------------------------


def base_is_the_start_also_between_forward_and_backward(wrap: Callable[[Any], nn.Module]) -> None:
    run = begun(wrap, [L2SP(1.0)])
    before = logits(run)
    for step in range(2):
        run.advance(mine(step))
    assert torch.equal(run.base(mine(0)).logits, before) and not torch.equal(logits(run), before)
    assert all(map(torch.equal, gradients(run, False), gradients(run, True)))


def a_run_is_the_run_of_one_process(wrap: Callable[[Any], nn.Module]) -> None:
    found = []
    for kind, of, where in ((wrap, mine, nullcontext()), (plain, all_of, alone())):
        with where:
            run = begun(kind, [Frozen("layers(0:1)"), L2SP(5.0)])
            start = whole(run)
            for step in range(4):
                run.advance(of(step), clip=0.1)
            found.append(whole(run))
            assert all(torch.equal(start[n], t) for n, t in found[-1].items() if ".layers.0." in n)
            run.end()
    assert all(torch.allclose(found[0][n], found[1][n], rtol=1e-4, atol=1e-6) for n in found[0])


def extended(tied: bool = True, dropout: float = 0.0) -> Any:
    """A model whose ids from 80 on are new; the batches hold such ids."""
    model = build("llama", tied=tied, dropout=dropout)
    drawn = torch.Generator().manual_seed(1)
    rows = [torch.randn(21, WIDTH, generator=drawn) for _ in range(2)]
    lay(model, 80, rows[0], None if tied else rows[1])
    return methods.apply("rows", model, {})


def new_rows_learn_as_in_one_process_and_old_ones_stand_still(wrap: Callable[[Any], nn.Module]) -> None:
    for tied in (True, False):
        found = []
        for kind, of, where in ((wrap, mine, nullcontext()), (plain, all_of, alone())):
            with where:
                model = extended(tied)
                start = {n: p.detach().clone() for n, p in model.named_parameters()}
                run = begun(kind, [], model)
                for step in range(4):
                    run.advance(of(step))
                found.append(whole(run))
                moved = {n for n, t in found[-1].items() if not torch.equal(t, start[n])}
                assert moved == set(new_rows(model)) == {n.removeprefix("module.") for n in run.tensors}
                run.end()
        assert all(torch.allclose(found[0][n], found[1][n], rtol=1e-4, atol=1e-6) for n in found[0])


def fisher_and_replay_are_those_of_one_process() -> None:
    drawn, importance = [], []
    for kind, of, where in ((DistributedDataParallel, mine, nullcontext()), (plain, all_of, alone())):
        with where:
            run = begun(kind, [Replay(ROWS, 0.5), EWC(ROWS[:4], 1.0)])
            steps = [run.batch([of(step)])[0] for step in range(3)]
            drawn.append([batch["input_ids"][batch[REPLAYED]] for batch in steps])
            importance.append(run.prepared()["rules"]["ewc-1"]["importance"])
            run.end()
    assert all(torch.equal(torch.cat(gathered(part)), rows) for part, rows in zip(*drawn, strict=True))
    found = {name.removeprefix("module."): values for name, values in importance[0].items()}
    assert found.keys() == importance[1].keys() and all(torch.equal(found[n], v) for n, v in importance[1].items())
    assert sum(float(values.sum()) for values in found.values()) > 0


def snapshots_and_walks_are_exact(wrap: Callable[[Any], nn.Module]) -> None:
    run = begun(wrap, [L2SP(5.0), Replay(ROWS, 0.5)])
    start = whole(run)
    run.advance(mine(0))
    kept = run.snapshot()
    run.advance(mine(1))
    once = whole(run)
    run.restore(kept)
    run.advance(mine(1))
    assert same(once, whole(run)) and not same(once, start)
    run.walk_back(run.base.values, 0.0)
    assert same(start, whole(run))


def ready_gradients_are_given_whole(wrap: Callable[[Any], nn.Module]) -> None:
    run = begun(wrap, [])
    name = next(n for n in run.tensors if n.endswith("norm.weight"))
    before = whole(run)
    run.advance(gradients={name: torch.ones(run.tensors[name].shape)})
    changed = {n for n, t in whole(run).items() if not torch.equal(t, before[n])}
    assert changed == {name.removeprefix("module.")}


def one_loss_that_is_not_a_number_stops_all(wrap: Callable[[Any], nn.Module]) -> None:
    run = begun(wrap, [])
    before = whole(run)
    loss = run.model(**run.batch([mine(0)])[0]).loss
    run.watch(loss * (float("nan") if RANK else 1.0))
    loss.backward()
    try:
        run.optimizer.step()
    except TrainingStopped:
        assert same(before, whole(run))
    else:
        raise AssertionError("the step was taken")


def processes_draw_different_old_rows_and_agree_on_figures(wrap: Callable[[Any], nn.Module]) -> None:
    for draw in ("shuffled", "increase"):
        run = begun(wrap, [Replay(ROWS, share=0.5, draw={draw: {"uniform": 0.0} if draw == "increase" else {}})])
        (batch,) = run.batch([mine(0)])
        drawn = batch["input_ids"][batch[REPLAYED]]
        assert len({tuple(row) for part in gathered(drawn) for row in part.tolist()}) == 2 * len(drawn) == 4
    assert float(run.agreed(torch.tensor(float(RANK)))) == 0.5 and run.process == (RANK, 2)


def gathered(tensor: Tensor) -> list[Tensor]:
    """A tensor of each process."""
    found = [torch.empty_like(tensor) for _ in range(2)]
    distributed.all_gather(found, tensor.contiguous())
    return found


def rows_of_ones_own_move_all_copies_alike() -> None:
    rules: list[Rule] = [Replay(ROWS, 0.5, layers="layers(1:)"), Distill(1.0, where="new", top=8)]
    run = begun(DistributedDataParallel, rules)
    before = whole(run)
    for step in range(3):
        run.advance(mine(step))
    after = whole(run)
    assert not same(before, after)
    assert all(torch.equal(*gathered(tensor)) for tensor in after.values())


def what_parts_cannot_hold_back_is_refused() -> None:
    apart = (Replay(ROWS[:4], 0.5, layers="mlp"), Distill(1.0, where="new", top=4))
    cases = ((None, EWC(ROWS[:4], 1.0)), (lora(build("llama")), L2SP(1.0)), *((None, rule) for rule in apart))
    for model, rule in cases:
        try:
            begun(sharded, [rule], model)
        except Unsupported as error:
            assert "FSDP2" in str(error)
        else:
            raise AssertionError(f"{type(rule).__name__} was not refused")


# Checks of the Trainer ----------------------------------------------------------------------------------------------


class SignalOne(TrainerCallback):
    """SIGTERM, to the second process alone, after two steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if RANK == 1 and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def a_signal_to_one_process_stops_all_and_the_run_resumes(folder: Path, **more: Any) -> None:
    """The uninterrupted run, the one that is stopped, and the one that goes on from there."""
    make = more.pop("make", built)
    given = {"max_steps": 5, "save_strategy": "no", "per_device_train_batch_size": 2, **more}
    uninterrupted = make(folder / "whole", **given)
    uninterrupted.train()
    make(folder / "run", **given, callbacks=[SignalOne()]).train()
    assert [f.name for f in checkpoint.checkpoints(folder / "run")] == ["checkpoint-2"]
    resumed = make(folder / "run", **given)
    resumed.train(True)
    assert resumed.state.global_step == 5 and figures(resumed) == figures(uninterrupted)
    assert same(whole(resumed.run), whole(uninterrupted.run))


def built(folder: Path, **given: Any) -> Any:
    """A trainer whose rules work on parts of tensors as well."""
    host = made(folder, **given)
    host.rules = [r for r in host.rules if not isinstance(getattr(r, "rule", r), EWC)]
    assert any(isinstance(r, Distill) for r in host.rules)
    return host


def worded(folder: Path, **given: Any) -> Any:
    """A trainer of new rows alone."""
    return made(folder, rules=[], model=extended(dropout=0.1), **given)


def main(folder: Path) -> None:
    """Every check, first on copies and then on parts; the first failure ends the process."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    wraps: tuple[Callable[[Any], nn.Module], ...] = (DistributedDataParallel, sharded)
    for wrap in wraps:
        base_is_the_start_also_between_forward_and_backward(wrap)
        a_run_is_the_run_of_one_process(wrap)
        snapshots_and_walks_are_exact(wrap)
        ready_gradients_are_given_whole(wrap)
        one_loss_that_is_not_a_number_stops_all(wrap)
        processes_draw_different_old_rows_and_agree_on_figures(wrap)
        new_rows_learn_as_in_one_process_and_old_ones_stand_still(wrap)
    fisher_and_replay_are_those_of_one_process()
    rows_of_ones_own_move_all_copies_alike()
    what_parts_cannot_hold_back_is_refused()
    a_signal_to_one_process_stops_all_and_the_run_resumes(folder / "copies")
    a_signal_to_one_process_stops_all_and_the_run_resumes(folder / "words", make=worded)
    # Accelerate offers FSDP2 to accelerators only; these two processes pass for such.
    AcceleratorState._reset_state()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    layout = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
    a_signal_to_one_process_stops_all_and_the_run_resumes(folder / "parts", fsdp=True, fsdp_config=layout)
    a_signal_to_one_process_stops_all_and_the_run_resumes(
        folder / "parts of words", make=worded, fsdp=True, fsdp_config=layout
    )
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
